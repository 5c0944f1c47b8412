//! The file operations of the log. A trait, so that tests cut the power between any two of them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A folder of files.
pub trait Disk: Clone + Send + Sync + 'static {
    type File: DiskFile;

    /// Creates a file that reads as zeros, with room on the disk for all of it. Fails if it exists.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Self::File>;

    /// Opens a file that exists.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes created, removed and changed names outlive the power.
    fn sync_names(&self) -> io::Result<()>;

    /// Bytes that may still be written.
    fn free(&self) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Writes all bytes at a place.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Reads at a place; fewer bytes than asked for at the end of the file.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;

    /// Makes what was written outlive the power.
    fn sync(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Its length.
    fn bytes(&self) -> io::Result<u64>;
}

/// A folder of the file system.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at a path; it is made if need be.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        // Events are in the files: they are nobody else's.
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Disk for Folder {
    type File = File;

    fn create(&self, name: &str, bytes: u64) -> io::Result<File> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        // Without room for all of it, a later write could fail in the middle of a group.
        if let Err(error) = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            drop(fs::remove_file(&path));
            return Err(error.into());
        }
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Read at a time around what the disk cannot read.
const PAGE: usize = 4 << 10;

/// Reads at a place. Pages that the disk cannot read (`EIO`) are zeros, as no group is, so that they cost no more than their own records.
/// Returns how many bytes there are, and how many of them were not read.
pub fn read_around<F: DiskFile>(file: &F, bytes: &mut [u8], at: u64) -> io::Result<(usize, usize)> {
    let cannot_be_read = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    match file.read_at(bytes, at) {
        Err(error) if cannot_be_read(&error) => {}
        read => return Ok((read?, 0)),
    }
    let (mut done, mut unread) = (0, 0);
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let place = at + done as u64;
        let to_boundary = PAGE - usize::try_from(place % PAGE as u64).unwrap_or_default();
        let length = to_boundary.min(rest.len());
        let page = rest.get_mut(..length).unwrap_or_default();
        let read = match file.read_at(page, place) {
            Err(error) if cannot_be_read(&error) => {
                tracing::error!(place, bytes = length, "the disk cannot read a part of the local log");
                page.fill(0);
                unread += length;
                length
            }
            read => read?,
        };
        done += read;
        if read < length {
            break;
        }
    }
    Ok((done, unread))
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, at + read as u64) {
                Ok(0) => break,
                Ok(some) => read += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
