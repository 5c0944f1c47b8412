//! Cleans up after this process, however it ends: a value in a `static` is never dropped.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A shell that waits for the other end of its standard input to close, which is when this process is gone, and then
/// removes a folder. ClickHouse dies at the same moment and may still create files, so it tries a few times.
pub(crate) struct Janitor(#[allow(dead_code, reason = "its standard input must stay open")] Child);

const SCRIPT: &str = r#"read -r _; for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" && exit; sleep 0.2; done"#;

impl Janitor {
    pub(crate) fn of(folder: &Path) -> Self {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "janitor"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is not for it: it has the last word.
            .process_group(0)
            .spawn();
        Self(shell.unwrap())
    }
}
