//! Log lines in a file of bounded size, instead of on standard error: `LOG_FILE`.
//!
//! ```text
//! line -> would the file be larger than `LOG_FILE_BYTES`? -> NAME.next is opened, NAME.1 becomes NAME.2 …,
//!         NAME becomes NAME.1, NAME.next becomes NAME
//!      -> appended
//! SIGHUP -> NAME is opened again, for programs such as logrotate that move it away themselves
//! ```
//!
//! At most `LOG_FILE_COUNT` rotated files are kept, so the room is bounded by `(LOG_FILE_COUNT + 1) * LOG_FILE_BYTES`.
//!
//! Failure cases:
//! * the disk is full, or the folder may no longer be written to: the line goes to standard error, where it would have gone without `LOG_FILE`;
//!   the next line tries the file again. What was written of it is cut off, so that a line is whole or not there;
//! * no file can be opened any more: nothing is moved, so that no older line gives way to none;
//! * somebody removed the file: lines go on into what is open, until the next rotation or SIGHUP makes it anew;
//! * another process writes to the same file: both would rotate it under each other, so the second one does not start;
//! * a link stands in its place: it is not followed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::OFlags;

/// Rotated files that `LOG_FILE_COUNT` allows at most.
pub(crate) const MOST_FILES: u32 = 100;

/// Where lines go, and how much room they take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFileSettings {
    /// `LOG_FILE`
    pub path: PathBuf,
    /// `LOG_FILE_BYTES`
    pub bytes: u64,
    /// `LOG_FILE_COUNT`: rotated ones beside it.
    pub count: u32,
}

/// Why a file cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum LogFileError {
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is not a regular file", .0.display())]
    Irregular(PathBuf),
    #[error("{} is written by another process: give each program a file of its own", .0.display())]
    InUse(PathBuf),
}

/// A file that lines are appended to.
#[derive(Debug)]
pub struct LogFile {
    settings: LogFileSettings,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl LogFile {
    /// Opens the file, and makes it when there is none. Rotated ones beyond the count are removed: it may have been larger.
    pub fn open(settings: LogFileSettings) -> Result<Self, LogFileError> {
        let open = open(&settings.path)?;
        for number in settings.count + 1..=MOST_FILES {
            let path = rotated(&settings.path, number);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(LogFileError::File { path, source });
                }
                _ => {}
            }
        }
        Ok(Self { settings, open: Mutex::new(open) })
    }

    /// Opens the file that has its name now.
    pub fn reopen(&self) -> Result<(), LogFileError> {
        let mut open = self.lock();
        let path = &self.settings.path;
        let failed = |source| LogFileError::File { path: path.clone(), source };
        let now = open.file.metadata().map_err(failed)?;
        // The lock is of an open file: a second one on the same file would be refused.
        let is_same =
            fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (now.dev(), now.ino()));
        if !is_same {
            *open = self::open(path)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, line: &[u8]) -> Result<(), LogFileError> {
        let mut open = self.lock();
        let added = line.len() as u64;
        if open.bytes > 0 && open.bytes.saturating_add(added) > self.settings.bytes {
            *open = rotate(&self.settings)?;
        }
        let path = &self.settings.path;
        if let Err(source) = open.file.write_all(line) {
            // The error that tells why is the first.
            drop(open.file.set_len(open.bytes));
            return Err(LogFileError::File { path: path.clone(), source });
        }
        open.bytes += added;
        Ok(())
    }
}

impl Write for &LogFile {
    /// Never fails: a line that the file does not take goes to standard error.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.append(line) {
            let mut stderr = io::stderr().lock();
            stderr.write_all(line)?;
            writeln!(
                stderr,
                r#"{{"level":"ERROR","target":"tallyhouse::log_file","message":"LOG_FILE takes no line; it went to standard error","error":{:?}}}"#,
                error.to_string()
            )?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> Result<Open, LogFileError> {
    let failed = |source| LogFileError::File { path: path.to_owned(), source };
    // NONBLOCK: a pipe without a reader would hold the start up. It means nothing for a file.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file =
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(LogFileError::Irregular(path.to_owned()));
    }
    match file.try_lock() {
        Ok(()) => Ok(Open { bytes: found.len(), file }),
        Err(TryLockError::WouldBlock) => Err(LogFileError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The file becomes the first rotated one, and is opened anew. The new one comes first: what follows loses the oldest.
fn rotate(settings: &LogFileSettings) -> Result<Open, LogFileError> {
    let next = settings.path.with_added_extension("next");
    let open = open(&next)?;
    for number in (1..settings.count).rev() {
        shift(&rotated(&settings.path, number), &rotated(&settings.path, number + 1))?;
    }
    shift(&settings.path, &rotated(&settings.path, 1))?;
    fs::rename(&next, &settings.path).map_err(|source| LogFileError::File { path: next, source })?;
    Ok(open)
}

/// What is not there needs no other name.
fn shift(from: &Path, to: &Path) -> Result<(), LogFileError> {
    match fs::rename(from, to) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LogFileError::File { path: from.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    path.with_added_extension(number.to_string())
}

/// What this process logs to.
static IN_USE: OnceLock<Arc<LogFile>> = OnceLock::new();

/// From now on SIGHUP opens this one again.
pub(crate) fn use_for_this_process(file: &Arc<LogFile>) {
    IN_USE.get_or_init(|| Arc::clone(file));
}

/// Whether this process logs to a file, which was opened again; what went wrong is logged.
pub(crate) fn reopen() -> bool {
    let Some(file) = IN_USE.get() else { return false };
    match file.reopen() {
        Ok(()) => tracing::info!(path = %file.settings.path.display(), "opened the log file again"),
        Err(error) => tracing::error!(%error, "the log file cannot be opened again; lines go on into the one before"),
    }
    true
}

/// Whether SIGHUP means the log file, and not the end.
pub(crate) fn is_in_use() -> bool {
    IN_USE.get().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("tallyhouse-log-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn settings(&self, bytes: u64, count: u32) -> LogFileSettings {
            LogFileSettings { path: self.0.join("log"), bytes, count }
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap_or_else(|error| format!("({error})"))
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> =
                fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn write(mut log: &LogFile, line: &str) {
        log.write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn files_are_bounded_in_size_and_number_and_no_line_is_divided() {
        let folder = Folder::new("bound");
        let log = LogFile::open(folder.settings(100, 2)).unwrap();
        for number in 0..40 {
            write(&log, &format!("line {number:04}\n"));
        }
        assert_eq!(folder.names(), ["log", "log.1", "log.2"]);
        let all = ["log.2", "log.1", "log"].map(|name| folder.text(name));
        assert!(all.iter().all(|text| text.len() <= 100 && text.ends_with('\n')), "{all:?}");
        let kept: Vec<String> = all.concat().lines().map(str::to_owned).collect();
        let last: Vec<String> = (40 - kept.len()..40).map(|number| format!("line {number:04}")).collect();
        assert_eq!(kept, last);
        assert_eq!(fs::metadata(folder.0.join("log")).unwrap().mode() & 0o777, 0o600);
        // One line that is larger than a file has one of its own.
        write(&log, &format!("{}\n", "x".repeat(300)));
        write(&log, "after\n");
        assert_eq!((folder.text("log").as_str(), folder.text("log.1").len()), ("after\n", 301));
    }

    #[test]
    fn a_restart_goes_on_in_the_file_and_fewer_files_are_kept_when_told() {
        let folder = Folder::new("restart");
        let log = LogFile::open(folder.settings(10, 4)).unwrap();
        (0..5).for_each(|number| write(&log, &format!("{number}23456789\n")));
        drop(log);
        assert_eq!(folder.names(), ["log", "log.1", "log.2", "log.3", "log.4"]);
        let log = LogFile::open(folder.settings(100, 1)).unwrap();
        write(&log, "more\n");
        assert_eq!(folder.names(), ["log", "log.1"]);
        assert_eq!(folder.text("log"), "423456789\nmore\n");
    }

    #[test]
    fn what_was_moved_away_is_made_anew_when_it_is_opened_again() {
        let folder = Folder::new("hangup");
        let log = LogFile::open(folder.settings(1_000, 1)).unwrap();
        write(&log, "one\n");
        log.reopen().unwrap();
        write(&log, "two\n");
        fs::rename(folder.0.join("log"), folder.0.join("moved")).unwrap();
        write(&log, "three\n");
        log.reopen().unwrap();
        write(&log, "four\n");
        assert_eq!((folder.text("moved").as_str(), folder.text("log").as_str()), ("one\ntwo\nthree\n", "four\n"));
    }

    #[test]
    fn one_process_writes_to_a_file_and_no_link_is_followed() {
        let folder = Folder::new("lock");
        let log = LogFile::open(folder.settings(1_000, 1)).unwrap();
        let error = LogFile::open(folder.settings(1_000, 1)).unwrap_err().to_string();
        assert!(error.contains("is written by another process"), "{error}");
        drop(log);
        let victim = folder.0.join("victim");
        fs::rename(folder.0.join("log"), &victim).unwrap();
        std::os::unix::fs::symlink(&victim, folder.0.join("log")).unwrap();
        assert!(LogFile::open(folder.settings(1_000, 1)).is_err());
        let folder_of_it = LogFileSettings { path: folder.0.clone(), bytes: 1_000, count: 1 };
        assert!(LogFile::open(folder_of_it).is_err());
    }

    #[test]
    fn where_no_new_file_can_be_opened_the_older_ones_stay() {
        let folder = Folder::new("no-next");
        let log = LogFile::open(folder.settings(5, 2)).unwrap();
        ["one\n", "two\n", "three\n"].iter().for_each(|line| write(&log, line));
        fs::create_dir(folder.0.join("log.next")).unwrap();
        (0..5).for_each(|_| write(&log, "lost\n"));
        let kept = ["log.2", "log.1", "log"].map(|name| folder.text(name));
        assert_eq!(kept, ["one\n", "two\n", "three\n"]);
        fs::remove_dir(folder.0.join("log.next")).unwrap();
        write(&log, "four\n");
        let kept = ["log.2", "log.1", "log"].map(|name| folder.text(name));
        assert_eq!(kept, ["two\n", "three\n", "four\n"]);
        assert_eq!(folder.names(), ["log", "log.1", "log.2"]);
    }

    /// Where the folder is gone, lines go to standard error, and nothing fails.
    #[test]
    fn a_line_that_the_file_does_not_take_is_not_an_error_of_the_program() {
        let folder = Folder::new("gone");
        let log = LogFile::open(folder.settings(5, 1)).unwrap();
        write(&log, "first\n");
        fs::remove_dir_all(&folder.0).unwrap();
        write(&log, "second\n");
        fs::create_dir(&folder.0).unwrap();
        write(&log, "third\n");
        assert_eq!(folder.text("log"), "third\n");
    }
}
