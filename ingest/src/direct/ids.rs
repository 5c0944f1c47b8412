//! Saves the deduplication window on disk, so that a start does not need ClickHouse.
//!
//! ```text
//! segment is read -> its ids, as far as the window still has them -> a file, synced -> the segment goes
//! refused events  -> their ids, in a file, synced -> the batch is committed
//! start           -> files, oldest first -> the window -> segments that are still there, but for what was refused
//! a file is older than the window -> it goes
//! ```
//!
//! So an id is on the disk for the whole window: first in the log, then in a file. What ClickHouse knows at the first start of a folder, and
//! what a version without a log left, has a file of its own.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use tallyhouse_service::clock::{now_ms, steady_ms};

use crate::event_key::EventKey;
use crate::limits::DedupLimits;
use crate::log::local::disk::{self, Disk, DiskFile};
use crate::window::Window;

const SUFFIX: &str = ".ids";

const REFUSED: &str = ".refused";

/// A file that is being written.
const NEW: &str = "ids.new";

/// Key, offset, time, checksum. Each has its own, so that damage costs no more than what is damaged.
const ENTRY: usize = 36;

/// An id of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    pub key: EventKey,
    /// The offset in the log; -1 for one that ClickHouse knew.
    pub offset: i64,
    /// When it came, in milliseconds since 1970.
    pub at: i64,
}

/// Whose ids a file holds. Files are read in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// What ClickHouse knew at the first start, and batches of a version without a log by then.
    ClickHouse,
    /// All that did not come through the log, when such batches were found at a later start.
    Journal,
    /// The segment that begins with an offset.
    Segment(i64),
    /// Refused events of the batch that ends before an offset.
    Refused(i64),
}

impl Source {
    fn name(self) -> String {
        match self {
            Self::ClickHouse => format!("{:020}-from-clickhouse{SUFFIX}", 0),
            Self::Journal => format!("{:020}-from-journal{SUFFIX}", 0),
            Self::Segment(base) => format!("{base:020}{SUFFIX}"),
            Self::Refused(next) => format!("{next:020}{REFUSED}"),
        }
    }
}

/// Writes ids; they outlive the power when it returns.
pub fn save<D: Disk>(disk: &D, source: Source, ids: &[Id]) -> io::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut entries = Vec::with_capacity(ids.len() * ENTRY);
    for id in ids {
        let start = entries.len();
        entries.extend_from_slice(&id.key.to_bytes());
        entries.extend_from_slice(&id.offset.to_le_bytes());
        entries.extend_from_slice(&id.at.to_le_bytes());
        let checksum = crc32fast::hash(entries.get(start..).unwrap_or_default());
        entries.extend_from_slice(&checksum.to_le_bytes());
    }
    // A file has its name when it is whole: a segment whose ids have one is not read again. First, of a save that was interrupted.
    disk.remove(NEW)?;
    let file = disk.create(NEW, entries.len() as u64)?;
    file.write_at(&entries, 0)?;
    file.sync()?;
    disk.rename(NEW, &source.name())?;
    disk.sync_names()
}

/// The last segment of which the ids are kept. Those of a segment before it are, too.
pub fn saved<D: Disk>(disk: &D) -> io::Result<i64> {
    let base = |name: &String| name.strip_suffix(SUFFIX)?.parse::<i64>().ok();
    Ok(disk.list()?.iter().filter_map(base).max().unwrap_or(i64::MIN))
}

/// Fills a window with what is on the disk and was not refused, the newest that it can hold, and removes files that are older than it. Returns how many
/// ids were damaged: repeats of their events are not known.
pub fn load<D: Disk>(disk: &D, window: &mut Window, refused: &RefusedRecords) -> io::Result<usize> {
    let mut names: Vec<String> = disk.list()?.into_iter().filter(|name| name.ends_with(SUFFIX)).collect();
    names.sort();
    let (now, steady, horizon) = (now_ms(), steady_ms(), horizon(window.length()));
    let (mut files, mut ids, mut damaged) = (Vec::new(), 0, 0);
    for name in names.iter().rev() {
        let (read, lost) = read(disk, name)?;
        if lost == 0 && read.last().is_none_or(|id| id.at < horizon) {
            disk.remove(name)?;
        } else if ids < window.capacity() {
            damaged += lost;
            ids += read.len();
            files.push(read);
        }
    }
    let is_known = |id: &&Id| id.at >= horizon && !refused.has(id.key, id.offset);
    for id in files.iter().rev().flatten().filter(is_known) {
        window.insert(id.key, id.offset, steady.saturating_sub(now.saturating_sub(id.at)));
    }
    Ok(damaged)
}

/// Records of the log that ClickHouse refused: their events may be sent again, and may have been, under another offset.
#[derive(Debug, Default)]
pub struct RefusedRecords {
    records: HashSet<(EventKey, i64)>,
    /// Ids that were damaged: repeats of their events are called duplicates.
    pub damaged: usize,
}

impl RefusedRecords {
    pub fn load<D: Disk>(disk: &D) -> io::Result<Self> {
        let mut refused = Self::default();
        for name in disk.list()?.into_iter().filter(|name| name.ends_with(REFUSED)) {
            let (read, lost) = read(disk, &name)?;
            refused.records.extend(read.into_iter().map(|id| (id.key, id.offset)));
            refused.damaged += lost;
        }
        Ok(refused)
    }

    /// Whether the record at an offset, with this id, is one.
    pub fn has(&self, key: EventKey, offset: i64) -> bool {
        self.records.contains(&(key, offset))
    }
}

/// Removes files of which every id is older than the window or has no room in it, and those of refused records before an offset:
/// the log has them no more.
pub fn forget_old<D: Disk>(disk: &D, dedup: DedupLimits, first: i64) -> io::Result<()> {
    let (horizon, mut newer) = (horizon(dedup.window), 0);
    let mut names = disk.list()?;
    names.sort();
    let is_gone = |next: &str| next.parse::<i64>().is_ok_and(|next| next <= first);
    for name in names.iter().filter(|name| name.strip_suffix(REFUSED).is_some_and(is_gone)) {
        disk.remove(name)?;
    }
    for name in names.into_iter().rev().filter(|name| name.ends_with(SUFFIX)) {
        let mut last = [0; ENTRY];
        let file = disk.open(&name)?;
        let bytes = file.bytes()?;
        let read = bytes.checked_sub(ENTRY as u64).map(|at| file.read_at(&mut last, at)).transpose()?;
        let is_old = read == Some(ENTRY) && decode(&last).is_some_and(|id| id.at < horizon);
        if is_old || newer >= dedup.ids as u64 {
            disk.remove(&name)?;
        } else {
            newer += bytes / ENTRY as u64;
        }
    }
    Ok(())
}

fn horizon(window: Duration) -> i64 {
    now_ms().saturating_sub(i64::try_from(window.as_millis()).unwrap_or(i64::MAX))
}

/// The ids of a file, and how many cannot be read.
fn read<D: Disk>(disk: &D, name: &str) -> io::Result<(Vec<Id>, usize)> {
    let file = disk.open(name)?;
    let mut bytes = vec![0; usize::try_from(file.bytes()?).unwrap_or(usize::MAX)];
    let (read, _) = disk::read_around(&file, &mut bytes, 0)?;
    bytes.truncate(read);
    let ids: Vec<Id> = bytes.chunks_exact(ENTRY).filter_map(decode).collect();
    let lost = bytes.len().div_ceil(ENTRY) - ids.len();
    Ok((ids, lost))
}

fn decode(entry: &[u8]) -> Option<Id> {
    let (key, rest) = entry.split_first_chunk::<16>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (at, written) = rest.split_first_chunk::<8>()?;
    let fields = entry.get(..ENTRY - written.len()).unwrap_or_default();
    if written != crc32fast::hash(fields).to_le_bytes() {
        return None;
    }
    Some(Id { key: EventKey::from_bytes(*key), offset: i64::from_le_bytes(*offset), at: i64::from_le_bytes(*at) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_key::KeyHasher;
    use crate::log::local::simulated::Simulated;

    const DAY: i64 = 86_400_000;

    fn id(hasher: &KeyHasher, n: i64, at: i64) -> Id {
        Id { key: hasher.key("p", &n.to_string()), offset: n, at }
    }

    fn limits(ids: usize) -> DedupLimits {
        DedupLimits { window: Duration::from_millis(DAY as u64), ids }
    }

    fn window(ids: usize) -> Window {
        Window::new(Duration::from_millis(DAY as u64), ids)
    }

    #[test]
    fn the_newest_ids_that_fit_are_known_again_and_old_files_go() {
        let (disk, hasher, now) = (Simulated::default(), KeyHasher::random(), now_ms());
        let file = |from: i64, age: i64| (from..from + 100).map(|n| id(&hasher, n, now - age)).collect::<Vec<_>>();
        for (from, age) in [(0, 2 * DAY), (100, DAY / 2), (200, 10), (300, 0)] {
            save(&disk, Source::Segment(from), &file(from, age)).unwrap();
        }
        let mut all = window(1_000);
        assert_eq!(load(&disk, &mut all, &RefusedRecords::default()).unwrap(), 0);
        assert_eq!(all.ids(), 300);
        assert_eq!((all.find(hasher.key("p", "99")), all.find(hasher.key("p", "100"))), (None, Some(100)));
        assert_eq!(disk.list().unwrap().len(), 3);
        let mut some = window(150);
        load(&disk, &mut some, &RefusedRecords::default()).unwrap();
        assert_eq!((some.find(hasher.key("p", "399")), some.find(hasher.key("p", "250"))), (Some(399), Some(250)));
        assert_eq!((some.ids(), some.find(hasher.key("p", "249"))), (150, None));
        // Damage costs what is damaged.
        disk.flip("00000000000000000200.ids", 8 * 100);
        let mut rest = window(1_000);
        assert_eq!(load(&disk, &mut rest, &RefusedRecords::default()).unwrap(), 1);
        assert_eq!((rest.ids(), rest.find(hasher.key("p", "202"))), (299, None));
    }

    #[test]
    fn ids_from_elsewhere_outlive_the_first_segment_and_are_older_than_it() {
        let (disk, hasher, now) = (Simulated::default(), KeyHasher::random(), now_ms());
        let other = Id { key: hasher.key("p", "other"), offset: -1, at: now };
        save(&disk, Source::ClickHouse, &[other]).unwrap();
        save(&disk, Source::Segment(0), &[id(&hasher, 0, now), id(&hasher, 1, now)]).unwrap();
        let (mut all, mut some) = (window(10), window(2));
        load(&disk, &mut all, &RefusedRecords::default()).unwrap();
        assert_eq!((all.ids(), all.find(other.key)), (3, Some(-1)));
        load(&disk, &mut some, &RefusedRecords::default()).unwrap();
        assert_eq!((some.ids(), some.find(other.key)), (2, None));
    }

    #[test]
    fn refused_records_are_told_by_their_offset() {
        let (disk, hasher, now) = (Simulated::default(), KeyHasher::random(), now_ms());
        save(&disk, Source::Refused(3), &[id(&hasher, 0, now), id(&hasher, 1, now)]).unwrap();
        save(&disk, Source::Segment(0), &[id(&hasher, 2, now)]).unwrap();
        forget_old(&disk, limits(1), 2).unwrap();
        let refused = RefusedRecords::load(&disk).unwrap();
        let key = |n: i64| hasher.key("p", &n.to_string());
        assert_eq!(refused.damaged, 0);
        // Sent again, and stored: another record.
        assert_eq!([(0, 0), (1, 1), (1, 7), (2, 2)].map(|(n, at)| refused.has(key(n), at)), [true, true, false, false]);
        disk.flip("00000000000000000003.refused", 8 * 50);
        assert_eq!(RefusedRecords::load(&disk).unwrap().damaged, 1);
        forget_old(&disk, limits(1), 3).unwrap();
        assert_eq!(disk.list().unwrap(), ["00000000000000000000.ids"], "the log has them no more");
    }

    #[test]
    fn files_go_when_all_in_them_is_old() {
        let (disk, hasher, now) = (Simulated::default(), KeyHasher::random(), now_ms());
        save(&disk, Source::Segment(1), &[id(&hasher, 1, now - 3 * DAY), id(&hasher, 2, now - 2 * DAY)]).unwrap();
        save(&disk, Source::Segment(3), &[id(&hasher, 3, now - 2 * DAY), id(&hasher, 4, now)]).unwrap();
        save(&disk, Source::Segment(2), &[id(&hasher, 2, now)]).unwrap();
        forget_old(&disk, limits(2), 0).unwrap();
        assert_eq!(disk.list().unwrap(), ["00000000000000000003.ids"]);
    }

    #[test]
    fn a_save_that_is_interrupted_leaves_no_file_of_its_name() {
        let (disk, hasher, now) = (Simulated::default(), KeyHasher::random(), now_ms());
        let ids: Vec<Id> = (0..100).map(|n| id(&hasher, n, now)).collect();
        save(&disk, Source::Segment(0), &ids).unwrap();
        for ops in 0..=disk.ops() {
            for seed in 0..20 {
                let after = disk.cut(ops, seed);
                let mut known = window(1_000);
                let is_saved = saved(&after).unwrap() == 0;
                assert_eq!(load(&after, &mut known, &RefusedRecords::default()).unwrap(), 0, "{ops} {seed}");
                assert_eq!(known.ids(), if is_saved { 100 } else { 0 }, "{ops} {seed}");
            }
        }
    }
}
