//! Prepares the file of the next segment in advance.
//!
//! Space that was only reserved is marked as written by the sync of each group, in the journal of the file system, which other files'
//! writes hold up. Where zeros were written, a sync has nothing to add to the journal. 400 syncs of 16 KiB beside a process that writes: 99 %
//! within 25 ms in reserved space, within 9 ms in zeros, within 40 ms when the file grows (ext4, two runs). The price is that each byte of a
//! log under load is written twice. The first segment of a process is reserved only, so that a start does not write 64 MiB.

use std::io;

use super::super::disk::{Disk, DiskFile};
use super::Segments;

/// Until it is a segment.
pub(super) const NAME: &str = "spare";

/// Written at a time.
const PIECE: usize = 1 << 20;

impl<D: Disk> Segments<D> {
    /// How large a spare should be, once half of the open segment is used.
    pub fn wants_spare(&self) -> Option<(D, u64)> {
        let open = self.segments.back().filter(|_| self.is_open && self.spare.is_none())?;
        (open.used >= self.segment_bytes / 2).then(|| (self.disk.clone(), self.segment_bytes))
    }

    /// Takes one that was made.
    pub fn take_spare(&mut self, spare: D::File) {
        self.spare = Some(spare);
    }
}

/// Makes one. Nothing else may make one meanwhile.
pub fn make<D: Disk>(disk: &D, bytes: u64) -> io::Result<D::File> {
    // Of an attempt that failed.
    disk.remove(NAME)?;
    let file = disk.create(NAME, bytes)?;
    let zeros = vec![0; PIECE.min(usize::try_from(bytes).unwrap_or(PIECE))];
    let mut written = 0;
    while written < bytes {
        let piece = zeros.len().min(usize::try_from(bytes - written).unwrap_or(PIECE));
        file.write_at(zeros.get(..piece).unwrap_or_default(), written)?;
        written += piece as u64;
    }
    file.sync()?;
    Ok(file)
}
