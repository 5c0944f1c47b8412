//! A small disk, to be filled.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::skip::skipped;

/// A file system of its own size at a folder, unmounted when the value goes.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it; `None`, told by the test's name, for anybody but root.
    pub fn mount_or_skip(folder: &Path, bytes: u64, test: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(folder.to_owned()));
        }
        skipped(test, "only root may mount a small file system");
        None
    }

    /// Unmounts it; fails when somebody still has a file open.
    pub fn unmount(self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // For a test that failed: lazily, because its service may still have files open. Otherwise it is unmounted already.
        drop(Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status());
    }
}
