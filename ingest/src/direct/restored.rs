//! The local log beside a ClickHouse that came out of a backup.
//!
//! ```text
//! backup    position: what is stored for sure (`next`) -> the log is copied -> ClickHouse's tables -> position: what may be stored (`end`)
//! restore   the tables -> the log that is still there, or the copy, is set back to `next`
//! start     everything from there on is stored again under new tokens; raw rows of one key are one event, and the days up to `end` are
//!           compared with raw events, and rebuilt (as after a power cut, see `checkpoint`)
//! ```
//!
//! So nothing that was acknowledged before the backup is lost, nothing that the tables have is counted again, and what the log still has from after
//! the backup is stored, too.
//!
//! A copy has no ids: they are 36 bytes an event, and ClickHouse has them. The start after it reads them from there (`wants_ids`).
//!
//! Segments that end after the last backup are kept, though they are stored (`kept_from`): with them nothing is lost when ClickHouse alone is.
//!
//! Failure cases:
//! * the log has lost what lies before an offset: it is set back to where it begins, and the caller says what is missing;
//! * killed while it is set back, or before it was told: setting back again changes nothing;
//! * a commit that is being written while it is read: read again;
//! * backups that are no longer made: no more than `SPOOL_BYTES` are kept, and none when the disk is nearly full.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use tallyhouse_service::private_file;

use super::checkpoint;
use crate::intent::Intent;
use crate::log::local::Identity;
use crate::log::local::commit::{self, COMMIT, Committed};
use crate::log::local::disk::{Disk, DiskFile, Folder};

/// Says that ids have to be read from ClickHouse.
const WANTS_IDS: &str = "restored";

/// Up to where a backup has the log.
const BACKED_UP: &str = "backed-up";

/// How often a commit is read that is being written.
const ATTEMPTS: u32 = 100;

/// Where a log stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPosition {
    /// Which log it is.
    pub log: String,
    /// What is before it is stored.
    pub next: i64,
    /// What is from here on was not begun.
    pub end: i64,
}

/// Where the log in a folder stands, which a process may be writing; `None` when nothing was ever committed. Changes nothing.
pub fn position(folder: &Path) -> io::Result<Option<LogPosition>> {
    let Some(log) = identity(folder)? else { return Ok(None) };
    let Some(Committed { next, metadata }) = committed(folder)? else { return Ok(None) };
    let intent = Intent::read(next, &metadata).map_err(io::Error::other)?;
    Ok(Some(LogPosition { log, next, end: intent.map_or(next, |intent| intent.last + 1) }))
}

fn identity(folder: &Path) -> io::Result<Option<String>> {
    if !folder.join(COMMIT).exists() {
        return Ok(None);
    }
    let (identity, _) = Identity::open(&Folder::open(folder)?)?;
    Ok(Some(identity.id.to_string()))
}

fn committed(folder: &Path) -> io::Result<Option<Committed>> {
    for _ in 0..ATTEMPTS {
        let (found, is_torn) = commit::peek(&fs::read(folder.join(COMMIT))?);
        if !is_torn {
            return Ok(found);
        }
        std::thread::yield_now();
    }
    Err(io::Error::new(ErrorKind::InvalidData, "the file `commit` of the log is damaged"))
}

/// Has everything from `from` on stored again, and the days of what is before `end` compared. Returns from where on the log has it.
pub fn set_back(folder: &Path, from: i64, end: i64) -> io::Result<i64> {
    checkpoint::set_back(&Folder::open(folder)?, from, end)
}

/// Has the next start read ids from ClickHouse: the log is a copy, without them.
pub fn ask_for_ids(folder: &Path) -> io::Result<()> {
    private_file::write(&folder.join(WANTS_IDS), "")
}

/// A backup has everything before an offset.
pub fn backed_up(folder: &Path, next: i64) -> io::Result<()> {
    private_file::write(&folder.join(BACKED_UP), &format!("{next}\n"))
}

/// Segments that end after it are kept, as long as there is room for them; `None`: no backup was ever made here.
pub(super) fn kept_from<D: Disk>(disk: &D) -> io::Result<Option<i64>> {
    let file = match disk.open(BACKED_UP) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = [0; 32];
    let read = file.read_at(&mut text, 0)?;
    let text = text.get(..read).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    // One that cannot be read keeps nothing: it is not needed to store events.
    Ok(text.trim().parse().ok())
}

/// Whether it is to.
pub(super) fn wants_ids<D: Disk>(disk: &D) -> io::Result<bool> {
    Ok(disk.list()?.iter().any(|name| name == WANTS_IDS))
}

/// It has.
pub(super) fn has_ids<D: Disk>(disk: &D) -> io::Result<()> {
    disk.remove(WANTS_IDS)
}
