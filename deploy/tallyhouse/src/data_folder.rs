//! The data folder: nobody else's, in use once, and not a copy of one that was in use.
//!
//! ```text
//! open -> made or tightened to 0700 -> each part locked -> is it a copy made while it was in use? -> marked as in use … drop -> marked as at rest
//! ```
//!
//! Tables, log and dedup window agree only at one moment. A copy that was made file by file while a process worked on them (`cp -a`, rsync) has
//! them of different moments: events would be lost, or counted twice, in silence. So the file of a part (`engine.instance`, `services.instance`)
//! says whether a process works on it, and which file in which folder it is, by inode and time of birth: a copy is another file in another folder.
//!
//! Failure cases:
//! * killed, or a power cut: marked as in use, same file: it starts, as before;
//! * copied at rest, to wherever: it starts; a snapshot of a whole file system has inodes and times of its original, and is of one moment: it starts;
//! * copied after a kill, before the next start: nobody can tell; it is refused, and says which file to remove if nothing ran meanwhile;
//! * a file that is no marker, as after a power cut while it was written: nothing is known, and it starts;
//! * a folder that others may enter is tightened when it is empty or holds ours, and refused when it holds something else: `/tmp` is not closed.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

/// For a predecessor that was just killed.
const LOCKED_WITHIN: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// What two processes may each have of one folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The embedded ClickHouse.
    Engine,
    /// Both services.
    Services,
}

impl Part {
    const ALL: [Self; 2] = [Self::Engine, Self::Services];

    fn file(self) -> &'static str {
        match self {
            Self::Engine => "engine.instance",
            Self::Services => "services.instance",
        }
    }
}

/// Why it is not opened.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is in use by another Tallyhouse{}; stop it, or choose another folder with TALLYHOUSE_DATA", .path.display(), process(*.pid))]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error(
        "{} is a copy of {}{}, made while Tallyhouse ran there: its tables and its log are of different moments, and events would be lost or counted \
         twice. Stop the original and copy it again; only if nothing ran when it was copied, remove {} and start again",
        .path.display(), .original.display(), process(*.pid), .marker.display()
    )]
    Copy {
        path: PathBuf,
        original: PathBuf,
        /// What still works on the original.
        pid: Option<u32>,
        marker: PathBuf,
    },
    #[error(
        "{} may be entered by others (mode {mode:o}) and holds what is not Tallyhouse's; `chmod 700` it, or choose another with TALLYHOUSE_DATA",
        .path.display()
    )]
    Open { path: PathBuf, mode: u32 },
}

fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// A file or folder, however it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    inode: u64,
    /// Nanoseconds; not every file system knows it.
    born: Option<i128>,
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
        let knows_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        let born = i128::from(found.stx_btime.tv_sec) * 1_000_000_000 + i128::from(found.stx_btime.tv_nsec);
        Ok(Self { inode: found.stx_ino, born: knows_birth.then_some(born) })
    }

    fn is(self, other: Self) -> bool {
        self.inode == other.inode && (self.born == other.born || self.born.is_none() || other.born.is_none())
    }
}

/// What the file of a part says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    is_in_use: bool,
    pid: u32,
    boot: String,
    path: PathBuf,
    file: Identity,
    folder: Identity,
}

impl Marker {
    /// Whether it was made elsewhere, and copied while it was in use. One of both may have been restored, or its file system may number anew.
    fn is_of_a_copy(&self, file: Identity, folder: Identity) -> bool {
        self.is_in_use && !self.file.is(file) && !self.folder.is(folder)
    }
}

/// A data folder in use, until the value goes.
#[derive(Debug)]
pub struct DataFolder {
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    path: PathBuf,
    file: File,
    marker: Marker,
}

impl DataFolder {
    /// Opens a folder for some parts, and makes it if there is none.
    pub async fn open(data: &Path, parts: &[Part]) -> Result<Self, DataFolderError> {
        let data = std::path::absolute(data).map_err(failed(data))?;
        DirBuilder::new().recursive(true).mode(0o700).create(&data).map_err(failed(&data))?;
        close_to_others(&data)?;
        let mut held = Vec::new();
        for part in parts {
            held.push(Held::lock(&data, *part).await?);
        }
        // Those of the other parts as well: what ran there is no matter.
        examine(&data)?;
        for one in &mut held {
            one.mark(true).map_err(failed(&one.path))?;
        }
        Ok(Self { held })
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        for one in &mut self.held {
            if let Err(error) = one.mark(false) {
                tracing::warn!(%error, path = %one.path.display(), "the data folder stays marked as in use; a copy of it will be refused");
            }
        }
    }
}

impl Held {
    async fn lock(data: &Path, part: Part) -> Result<Self, DataFolderError> {
        let path = data.join(part.file());
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(&path);
        let file = open.map_err(failed(&path))?;
        let deadline = Instant::now() + LOCKED_WITHIN;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(POLL).await,
                Err(TryLockError::WouldBlock) => {
                    let pid = read(&path).map(|marker| marker.pid);
                    return Err(DataFolderError::InUse { path: data.to_owned(), pid });
                }
                Err(TryLockError::Error(source)) => return Err(failed(&path)(source)),
            }
        }
        let folder = File::open(data).and_then(|folder| Identity::of(&folder)).map_err(failed(data))?;
        let marker = Marker {
            is_in_use: true,
            pid: std::process::id(),
            boot: boot(),
            path: data.to_owned(),
            file: Identity::of(&file).map_err(failed(&path))?,
            folder,
        };
        Ok(Self { path, file, marker })
    }

    fn mark(&mut self, is_in_use: bool) -> io::Result<()> {
        self.marker.is_in_use = is_in_use;
        let text = serde_json::to_vec(&self.marker)?;
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)?;
        self.file.sync_all()
    }
}

/// Refuses a copy that was made while it was in use. Changes nothing.
pub fn examine(data: &Path) -> Result<(), DataFolderError> {
    for part in Part::ALL {
        let path = data.join(part.file());
        let Some(marker) = read(&path) else { continue };
        let identity = |path: &Path| File::open(path).and_then(|file| Identity::of(&file)).map_err(failed(path));
        if marker.is_of_a_copy(identity(&path)?, identity(data)?) {
            let is_running = marker.boot == boot() && Path::new("/proc").join(marker.pid.to_string()).exists();
            let pid = is_running.then_some(marker.pid);
            return Err(DataFolderError::Copy { path: data.to_owned(), original: marker.path, pid, marker: path });
        }
    }
    Ok(())
}

fn read(path: &Path) -> Option<Marker> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut text = Vec::new();
    OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Which start of the kernel this is; empty where it does not say.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What is done about a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Private,
    Tighten,
    Refuse,
    /// It belongs to somebody else, as a mounted volume may: what is below it is private.
    NotOurs,
}

fn access(mode: u32, is_owner: bool, is_only_ours: bool) -> Access {
    const OTHERS: u32 = 0o077;
    const STICKY: u32 = 0o1000;
    match () {
        () if mode & OTHERS == 0 => Access::Private,
        () if !is_owner => Access::NotOurs,
        () if is_only_ours && mode & STICKY == 0 => Access::Tighten,
        () => Access::Refuse,
    }
}

fn close_to_others(data: &Path) -> Result<(), DataFolderError> {
    let found = fs::metadata(data).map_err(failed(data))?;
    let mode = found.mode() & 0o7777;
    let is_owner = found.uid() == rustix::process::geteuid().as_raw();
    match access(mode, is_owner, is_only_ours(data).map_err(failed(data))?) {
        Access::Private => Ok(()),
        Access::Tighten => {
            tracing::info!(path = %data.display(), mode = format!("{mode:o}"), "others may no longer enter the data folder");
            fs::set_permissions(data, Permissions::from_mode(0o700)).map_err(failed(data))
        }
        Access::NotOurs => {
            tracing::warn!(path = %data.display(), mode = format!("{mode:o}"), "others may enter the data folder, which belongs to another user");
            Ok(())
        }
        Access::Refuse => Err(DataFolderError::Open { path: data.to_owned(), mode }),
    }
}

/// Of an older version, of `make run` and `make kafka`, too.
const OURS: [&str; 14] = [
    "backups",
    "clickhouse",
    "clickhouse-cold",
    "clickhouse-log",
    "clickhouse-warm",
    "clickhouse.pid",
    "credentials",
    "engine",
    "engine.instance",
    "ingest",
    "kafka",
    "lost+found",
    "running",
    "services.instance",
];

fn is_only_ours(data: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(data)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !OURS.contains(&name.as_ref()) && !name.starts_with("tallyhouse.") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DataFolderError + use<> {
    let path = path.to_owned();
    move |source| DataFolderError::File { path, source }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tallyhouse-data-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn copy(from: &Path, to: &Path) {
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    }

    async fn refusal(data: &Path) -> String {
        DataFolder::open(data, &[Part::Services]).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_copy_of_a_folder_in_use_is_refused_and_one_of_a_folder_at_rest_is_not() {
        let root = folder("copy");
        let data = root.join("data");
        let held = DataFolder::open(&data, &[Part::Engine, Part::Services]).await.unwrap();
        copy(&data, &root.join("hot"));
        let text = refusal(&root.join("hot")).await;
        assert!(text.contains(&format!("is a copy of {} (process {})", data.display(), std::process::id())), "{text}");
        assert!(examine(&root.join("hot")).is_err() && examine(&data).is_ok());
        // As it says: both files are gone.
        for part in Part::ALL {
            fs::remove_file(root.join("hot").join(part.file())).unwrap();
        }
        drop(DataFolder::open(&root.join("hot"), &[Part::Services]).await.unwrap());
        drop(held);
        copy(&data, &root.join("cold"));
        drop(DataFolder::open(&root.join("cold"), &[Part::Engine]).await.unwrap());
        fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn after_a_kill_it_opens_again_and_also_when_it_was_moved() {
        let root = folder("kill");
        let data = root.join("data");
        // A killed process drops nothing; its locks go.
        let mut held = DataFolder::open(&data, &[Part::Services]).await.unwrap();
        held.held.clear();
        assert!(read(&data.join(Part::Services.file())).unwrap().is_in_use);
        fs::rename(&data, root.join("moved")).unwrap();
        drop(DataFolder::open(&root.join("moved"), &[Part::Services]).await.unwrap());
        assert!(!read(&root.join("moved").join(Part::Services.file())).unwrap().is_in_use);
        fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn a_second_process_is_refused_and_other_parts_are_not() {
        let data = folder("second");
        let _held = DataFolder::open(&data, &[Part::Services]).await.unwrap();
        let text = refusal(&data).await;
        assert!(text.contains("in use by another Tallyhouse (process "), "{text}");
        drop(DataFolder::open(&data, &[Part::Engine]).await.unwrap());
        fs::remove_dir_all(data).unwrap();
    }

    #[tokio::test]
    async fn a_folder_of_ours_is_closed_and_that_of_others_is_left_alone() {
        let data = folder("mode");
        let mode = || fs::metadata(&data).unwrap().mode() & 0o7777;
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        drop(DataFolder::open(&data, &[Part::Services]).await.unwrap());
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        fs::write(data.join("holiday.jpg"), "").unwrap();
        assert!(refusal(&data).await.contains("mode 755"));
        assert_eq!(mode(), 0o755);
        fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn what_is_done_about_a_mode() {
        assert_eq!(access(0o700, true, false), Access::Private);
        assert_eq!(access(0o1777, true, true), Access::Refuse);
        assert_eq!(access(0o2775, false, true), Access::NotOurs);
    }
}
