//! Files of backups: found, copied and summed. Blocking.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tallyhouse_sql::hex;

use super::BackupError;
use super::manifest::Entry;

/// Read at a time.
const CHUNK: usize = 1 << 20;

/// Makes a folder and those above it, for its owner alone.
pub(super) fn make_folder(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(BackupError::file(path))
}

/// All files below a folder, as paths relative to it with `/` between. Links are none: nobody of ours makes them.
pub(super) fn below(folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inner) = folders.pop() {
        let path = folder.join(&inner);
        for entry in fs::read_dir(&path).map_err(BackupError::file(&path))? {
            let entry = entry.map_err(BackupError::file(&path))?;
            let kind = entry.file_type().map_err(BackupError::file(&path))?;
            let inner = inner.join(entry.file_name());
            if kind.is_dir() {
                folders.push(inner);
            } else if kind.is_file() {
                files.push(inner);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Length and checksum of a file. No link is followed.
pub(super) fn sum(path: &Path) -> io::Result<(u64, String)> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let (mut hasher, mut chunk, mut bytes) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        let read = file.read(&mut chunk)?;
        let Some(part) = chunk.get(..read).filter(|part| !part.is_empty()) else { break };
        hasher.update(part);
        bytes += read as u64;
    }
    Ok((bytes, hex(&hasher.finalize())))
}

/// The entry of a file that is at its path below a root.
pub(super) fn entry(root: &Path, inner: &Path) -> Result<Entry, BackupError> {
    let path = root.join(inner);
    let (bytes, sha256) = sum(&path).map_err(BackupError::file(&path))?;
    Ok(Entry { path: inner.to_string_lossy().into_owned(), bytes, sha256, at: None })
}

/// Copies a file, without following a link, and returns when the disk has it.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), BackupError> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut source = OpenOptions::new().read(true).custom_flags(flags).open(from).map_err(BackupError::file(from))?;
    let mut copy = create(to)?;
    io::copy(&mut source, &mut copy).and_then(|_| copy.sync_all()).map_err(BackupError::file(to))
}

/// Creates a file for its owner alone, in place of another.
pub(super) fn create(path: &Path) -> Result<File, BackupError> {
    path.parent().map_or(Ok(()), make_folder)?;
    remove(path)?;
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    open.map_err(BackupError::file(path))
}

/// Copies a file that another process may be writing. A segment of a log goes without the zeros at its end, which are room that is not used
/// yet. `false`: it is gone.
pub(super) fn copy_used(from: &Path, to: &Path) -> Result<bool, BackupError> {
    let bytes = match fs::read(from) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        bytes => bytes.map_err(BackupError::file(from))?,
    };
    let used = match from.extension().is_some_and(|end| end == "log") {
        true => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
        false => bytes.len(),
    };
    let mut copy = create(to)?;
    let written = copy.write_all(bytes.get(..used).unwrap_or_default()).and_then(|()| copy.sync_all());
    written.map_err(BackupError::file(to))?;
    Ok(true)
}

/// Removes a file or a folder with all that is in it, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), BackupError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(BackupError::file(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_summed_and_copied_as_far_as_they_are_used() {
        let root = std::env::temp_dir().join(format!("tallyhouse-backup-files-{}", std::process::id()));
        make_folder(&root.join("a/b")).unwrap();
        fs::write(root.join("a/b/one.log"), b"abc\0\0").unwrap();
        fs::write(root.join("a/b/two"), b"abc\0\0").unwrap();
        fs::write(root.join("two"), b"").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        assert_eq!(below(&root).unwrap(), [PathBuf::from("a/b/one.log"), "a/b/two".into(), "two".into()]);
        assert!(copy_used(&root.join("a/b/two"), &root.join("copy")).unwrap());
        assert_eq!(fs::read(root.join("copy")).unwrap().len(), 5, "its zeros may mean something");
        assert!(copy_used(&root.join("a/b/one.log"), &root.join("copy")).unwrap());
        assert!(!copy_used(&root.join("gone"), &root.join("none")).unwrap());
        let found = entry(&root, Path::new("copy")).unwrap();
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(found, Entry { path: "copy".into(), bytes: 3, sha256: sha256.into(), at: None });
        assert!(sum(&root.join("link")).is_err(), "a link is not followed");
        remove(&root).unwrap();
        remove(&root).unwrap();
    }
}
