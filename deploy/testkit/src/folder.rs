//! Temporary folders, removed when the test or the process ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use memchr::memmem;

use crate::programs;

/// A folder that goes when the value goes.
pub struct Folder(PathBuf);

impl Folder {
    pub fn create() -> Self {
        Self(new_folder())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Files below a folder that hold some bytes.
pub fn files_with(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match (entry.path(), entry.file_type()) {
                (path, Ok(kind)) if kind.is_dir() => folders.push(path),
                (path, _) if std::fs::read(&path).is_ok_and(|held| memmem::find(&held, bytes).is_some()) => {
                    found.push(path.display().to_string());
                }
                _ => {}
            }
        }
    }
    found
}

/// A folder that stays.
pub(crate) fn new_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = programs::temporary().join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Cleans up after this process, however it ends: a value in a `static` is never dropped.
///
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
