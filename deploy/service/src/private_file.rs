//! Files that only their owner reads, and that are written whole or not at all, through no symlink.
//!
//! Whoever may write to a folder, as the engine may to its own, could put a symlink in the place of a file that we write there, and have us write
//! another one. So a file is made anew beside its place, which follows no link and gives it its mode from the first byte, and is moved there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Rights of anybody but the owner.
const OTHERS: u32 = 0o077;

/// A draft that is older was left by a writer that was killed.
const ABANDONED: Duration = Duration::from_secs(60);

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

/// Replaces a file, and returns when the disk has it. Drafts of it that killed writers left are removed.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    remove_drafts(path, folder, SystemTime::now());
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

/// What cannot be removed is in nobody's way.
fn remove_drafts(path: &Path, folder: &Path, now: SystemTime) {
    // `Path::parent` of a bare name is empty.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (Some(name), Ok(entries)) = (path.file_name().and_then(|name| name.to_str()), fs::read_dir(folder)) else {
        return;
    };
    for entry in entries.flatten() {
        let is_draft = entry.file_name().to_str().is_some_and(|found| is_draft_of(name, found));
        let made = entry.metadata().and_then(|found| found.modified()).ok().filter(|_| is_draft);
        if made.and_then(|made| now.duration_since(made).ok()).is_some_and(|age| age > ABANDONED) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

fn is_draft_of(name: &str, found: &str) -> bool {
    let number = found.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".new"));
    number.is_some_and(|number| number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()))
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

    #[test]
    fn drafts_of_killed_writers_go_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("tallyhouse-drafts-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let old = SystemTime::now() - 2 * ABANDONED;
        let others = ["file.0123456789abcdee.new", "file.new", "file.other.new", "other.0123456789abcdef.new"];
        for name in others.iter().chain(&["file.0123456789abcdef.new"]) {
            let made = File::create(folder.join(name)).unwrap();
            // The first one may be under way.
            if *name != others[0] {
                made.set_modified(old).unwrap();
            }
        }
        write(&folder.join("file"), "ours").unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [&["file"], &others[..]].concat());
        fs::remove_dir_all(folder).unwrap();
    }
}
