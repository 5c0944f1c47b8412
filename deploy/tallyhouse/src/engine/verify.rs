//! Whether the library is the one that was pinned: it gets all that we have, before there is a cage.
//!
//! ```text
//! inode, size and times as in `engine/library.verified` -> it is the one that was read before
//!                                                      '-> SHA-256 of the file (566 MB, 0.4 s) -> the pinned one? -> remembered
//! ```
//!
//! npm checks the archive (`package-lock.json`); this checks the file that is loaded, wherever it was taken from. What was remembered lies in the folder
//! with the configuration, which the engine cannot write. The time of the last change of an inode (ctime) cannot be set back without the system's clock.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tallyhouse_sql::hex;

use super::program::{PINNED_SHA256, ProgramError};
use tallyhouse_service::private_file;

/// Below a data folder.
pub(super) fn remembered(data: &Path) -> PathBuf {
    data.join("engine").join("library.verified")
}

/// What this process has read already.
static VERIFIED: Mutex<Option<String>> = Mutex::new(None);

/// Refuses another library than the pinned one. `remembered` is the file that saves reading it again.
pub(super) fn library(path: &Path, remembered: &Path) -> Result<(), ProgramError> {
    let unreadable =
        |source: io::Error| ProgramError::UnreadableLibrary { path: path.to_owned(), problem: source.to_string() };
    let mut file = File::open(path).map_err(unreadable)?;
    let stamp = stamp(&file).map_err(unreadable)?;
    let mut verified = VERIFIED.lock().unwrap_or_else(PoisonError::into_inner);
    if verified.as_deref() == Some(&stamp) || std::fs::read_to_string(remembered).is_ok_and(|known| known == stamp) {
        return Ok(());
    }
    let found = sha256(&mut file).map_err(unreadable)?;
    if found != PINNED_SHA256 {
        return Err(ProgramError::LibraryHash { path: path.to_owned(), found });
    }
    if let Err(error) = private_file::write(remembered, &stamp) {
        tracing::debug!(%error, "the library will be read again at the next start");
    }
    *verified = Some(stamp);
    Ok(())
}

fn stamp(file: &File) -> io::Result<String> {
    let found = file.metadata()?;
    Ok(format!(
        "{PINNED_SHA256} {}:{} {} {}.{:09} {}.{:09}\n",
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec()
    ))
}

fn sha256(file: &mut File) -> io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            length => hash.update(buffer.get(..length).unwrap_or_default()),
        }
    }
}
