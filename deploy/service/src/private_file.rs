//! Files that only their owner reads, and that are written whole or not at all, through no symlink.
//!
//! Whoever may write to a folder, as the engine may to its own, could put a symlink in the place of a file that we write there, and have us write
//! another one. So a file is made anew beside its place, which follows no link and gives it its mode from the first byte, and is moved there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Rights of anybody but the owner.
const OTHERS: u32 = 0o077;

/// A file that is there.
#[derive(Debug)]
pub struct PrivateFile {
    pub text: String,
    /// The mode of the very file that was read.
    pub mode: u32,
}

impl PrivateFile {
    /// Reads a file whole.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(Self { text, mode: file.metadata()?.mode() & 0o7777 })
    }

    /// Whether others than its owner may read or write it.
    pub const fn is_open(&self) -> bool {
        self.mode & OTHERS != 0
    }
}

/// Replaces a file, and returns when the disk has it.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Its own for each writer, or one could move another one's half into place.
    let draft = path.with_added_extension(format!("{:016x}.new", rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written =
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&draft, path));
    if let Err(error) = written {
        // The error that tells why is the first.
        drop(fs::remove_file(&draft));
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_private_and_replaces_a_link_instead_of_following_it() {
        let folder = std::env::temp_dir().join(format!("tallyhouse-private-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (victim, path) = (folder.join("victim"), folder.join("file"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &path).unwrap();
        write(&path, "ours").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        let found = fs::symlink_metadata(&path).unwrap();
        assert!(found.is_file() && found.mode() & 0o777 == 0o600, "{found:?}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "no draft is left");
        fs::remove_dir_all(folder).unwrap();
    }
}
