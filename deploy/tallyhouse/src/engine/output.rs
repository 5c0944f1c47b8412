//! What the engine prints, in two files of a bounded size.
//!
//! ```text
//! engine's stdout, stderr -> pipe -> thread -> output.log, at the limit -> output.log.1 (the one before is removed)
//! ```
//!
//! An engine that clients attack prints a stack trace for each attack. So what it prints comes through a pipe, and whoever attacks for a week fills
//! two files and no disk. Failure cases: a file that cannot be written is told once, and the output is read and dropped from then on, because an
//! engine that cannot print would wait for ever; a thread that cannot be started ends with the start of the engine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Of each of the two files.
const LIMIT_BYTES: u64 = 1 << 20;

/// How long the last words of a process that ended are waited for. Only a process that inherited its output could hold them up.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

/// Reads what one process prints.
#[derive(Debug)]
pub(super) struct Output {
    drained: Receiver<()>,
}

impl Output {
    /// Begins a new file at `path`; what the process before printed is kept beside it.
    pub(super) fn record(mut printed: PipeReader, path: &Path) -> io::Result<Self> {
        let mut file = Rotated::open(path, LIMIT_BYTES)?;
        let (done, drained) = sync_channel(0);
        std::thread::Builder::new().name("engine output".to_owned()).spawn(move || {
            copy(&mut printed, &mut file);
            // Which whoever waits is told by.
            drop(done);
        })?;
        Ok(Self { drained })
    }

    /// Waits until everything that the process printed before its end is in the file.
    pub(super) fn drain(self) {
        match self.drained.recv_timeout(DRAIN_WITHIN) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => tracing::debug!("somebody still holds the engine's output"),
        }
    }
}

fn copy(printed: &mut PipeReader, file: &mut Rotated) {
    let mut buffer = [0; 8 << 10];
    let mut is_failed = false;
    loop {
        let chunk = match printed.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if let Err(error) = file.write(chunk)
            && !is_failed
        {
            is_failed = true;
            tracing::warn!(%error, path = %file.path.display(), "what ClickHouse prints cannot be written and is dropped");
        }
    }
}

/// A file that makes room for itself.
#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
}

impl Rotated {
    fn open(path: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self { file: fresh(path)?, path: path.to_owned(), bytes: 0, limit })
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        if self.bytes + chunk.len() as u64 > self.limit {
            self.file = fresh(&self.path)?;
            self.bytes = 0;
        }
        self.file.write_all(chunk)?;
        self.bytes += chunk.len() as u64;
        Ok(())
    }
}

/// An empty file; the one that was there is kept beside it. `create_new` follows no symlink.
fn fresh(path: &Path) -> io::Result<File> {
    match fs::rename(path, path.with_extension("log.1")) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_hold_the_end_of_any_output_and_the_start_of_a_process_makes_a_new_one() {
        let folder = std::env::temp_dir().join(format!("tallyhouse-output-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("output.log");
        let mut file = Rotated::open(&path, 10).unwrap();
        for number in 0..100 {
            file.write(format!("{number:04}").as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "00980099");
        assert_eq!(fs::read_to_string(folder.join("output.log.1")).unwrap(), "00960097");

        let (reader, mut writer) = io::pipe().unwrap();
        let output = Output::record(reader, &path).unwrap();
        writer.write_all(b"last words").unwrap();
        drop(writer);
        output.drain();
        assert_eq!(fs::read_to_string(&path).unwrap(), "last words");
        assert_eq!(fs::read_to_string(folder.join("output.log.1")).unwrap(), "00980099");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_symlink_in_the_place_of_the_file_is_moved_away_and_not_followed() {
        let folder = std::env::temp_dir().join(format!("tallyhouse-output-link-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (victim, path) = (folder.join("victim"), folder.join("output.log"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        Rotated::open(&path, 10).unwrap().write(b"printed").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!path.is_symlink());
        fs::remove_dir_all(folder).unwrap();
    }
}
