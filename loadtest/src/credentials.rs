//! The credentials of systems that are started to be measured or broken, and thrown away: known before the first start, which takes
//! what its data folder has.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Of every user.
pub const PASSWORD: &str = "thrown-away";

/// Writes them below a data folder, as `tallyhouse up` and `store` would at their first start.
pub fn write(data: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(data.join("credentials"))?;
    for user in ["WRITER", "READER", "GRAFANA", "ANALYST"] {
        writeln!(file, "{user}_PASSWORD={PASSWORD}")?;
    }
    writeln!(file, "USER_HASH_KEY=000102030405060708090a0b0c0d0e0f")
}
