//! Repairs ClickHouse's deduplication logs after a crash: revokes entries whose parts were never written.
//!
//! A plain `MergeTree` table remembers an insert *before* it renames the new part into place (`MergeTreeSink::commitPart`:
//! `deduplication_log->addPart`, then `renameTempPartAndAdd`). A `kill -9` between the two leaves a log that says "stored"
//! and no rows: the ingester's retry with the same token would be dropped, and an event acknowledged after it would be lost.
//! Replicated tables are not affected, they do both in one transaction of Keeper.
//!
//! So before each start, while nobody has the tables open, the newest entries of each log are compared with the parts on
//! disk, and an entry without its part is revoked the way ClickHouse itself revokes those of dropped parts: by a record.
//! A last line that was cut off in the middle is removed.
//!
//! A part may also be gone because it expired or a rebuild replaced its partition; its token must stay known, or a late retry
//! would be counted twice. An interrupted insert has left its rows behind as `tmp_insert_{partition}_…`. So of each partition at
//! most as many entries are revoked as such folders are there, the newest ones.
//!
//! A record is a line `operation TAB part TAB token`, operation 1 for added and 2 for dropped.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Entries that are looked at, from the newest: far more than the inserts that can be in flight leave
/// (`MAX_PARTITIONS_PER_INSERT` for each).
const NEWEST: usize = 8_000;

/// Revokes the entries of interrupted inserts. `disks` are the roots that parts can be on, first the one with the logs. Returns how many entries
/// were revoked.
pub(super) fn repair(disks: &[&Path]) -> io::Result<usize> {
    let Some(first) = disks.first() else { return Ok(0) };
    let mut revoked = 0;
    for table in tables(&first.join("store"))? {
        let Some(log) = newest_log(&table.join("deduplication_logs"))? else { continue };
        let relative = table.strip_prefix(first).unwrap_or(&table);
        let mut parts = Parts::default();
        for disk in disks {
            parts.extend(&disk.join(relative))?;
        }
        revoked += repair_log(&log, &parts)?;
    }
    Ok(revoked)
}

/// The folders of all tables: `store/abc/abcdef…`.
fn tables(store: &Path) -> io::Result<Vec<PathBuf>> {
    let mut tables = Vec::new();
    for prefix in entries(store)? {
        tables.extend(entries(&prefix)?);
    }
    Ok(tables)
}

/// What is in a folder; nothing when there is none. The engine could have put a link there, to have us write elsewhere.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if folder.is_symlink() {
        return Err(io::Error::other(format!("{} is a symlink", folder.display())));
    }
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `deduplication_log_N.txt` with the largest N.
fn newest_log(folder: &Path) -> io::Result<Option<PathBuf>> {
    let number = |path: &PathBuf| -> Option<u64> {
        path.file_name()?.to_str()?.strip_prefix("deduplication_log_")?.strip_suffix(".txt")?.parse().ok()
    };
    Ok(entries(folder)?.into_iter().filter(|path| number(path).is_some()).max_by_key(number))
}

/// What lies in a table's folder.
#[derive(Debug, Default)]
struct Parts {
    whole: Vec<PartName>,
    /// Parts that were being written when the process died, by partition.
    unfinished: HashMap<String, usize>,
}

/// In front of the name of a part that is being written.
const UNFINISHED: &str = "tmp_insert_";

impl Parts {
    fn extend(&mut self, table: &Path) -> io::Result<()> {
        for path in entries(table)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            self.add(name);
        }
        Ok(())
    }

    fn add(&mut self, name: &str) {
        match name.strip_prefix(UNFINISHED) {
            Some(part) => {
                let partition = part.split('_').next().unwrap_or_default();
                *self.unfinished.entry(partition.to_owned()).or_default() += 1;
            }
            None => self.whole.extend(PartName::parse(name)),
        }
    }

    fn holds(&self, part: &PartName) -> bool {
        self.whole.iter().any(|whole| whole.holds(part))
    }
}

fn repair_log(log: &Path, parts: &Parts) -> io::Result<usize> {
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let mut text = String::new();
    OpenOptions::new().read(true).custom_flags(no_link).open(log)?.read_to_string(&mut text)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let interrupted = interrupted_entries(text.get(..whole).unwrap_or_default(), parts);
    if interrupted.is_empty() && whole == text.len() {
        return Ok(0);
    }
    let mut file = OpenOptions::new().append(true).custom_flags(no_link).open(log)?;
    file.set_len(whole as u64)?;
    for Entry { part, token } in &interrupted {
        writeln!(file, "2\t{part}\t{token}")?;
    }
    file.sync_all()?;
    Ok(interrupted.len())
}

struct Entry<'a> {
    part: &'a str,
    token: &'a str,
}

/// Entries that were added, not dropped since, whose rows are in no part, and for which an unfinished part is there. In the order
/// of the log.
fn interrupted_entries<'a>(log: &'a str, parts: &Parts) -> Vec<Entry<'a>> {
    let mut added: HashMap<&str, (usize, PartName, &str)> = HashMap::new();
    let newest: Vec<&str> = log.lines().rev().take(NEWEST).collect();
    for (place, line) in newest.into_iter().rev().enumerate() {
        let mut fields = line.split('\t');
        match (fields.next(), fields.next(), fields.next()) {
            (Some("1"), Some(name), Some(token)) => {
                if let Some(part) = PartName::parse(name) {
                    drop(added.insert(token, (place, part, name)));
                }
            }
            (Some("2"), _, Some(token)) => drop(added.remove(token)),
            _ => {}
        }
    }
    let mut missing: Vec<_> = added.into_iter().filter(|(_, (_, part, _))| !parts.holds(part)).collect();
    missing.sort_by_key(|(_, (place, ..))| std::cmp::Reverse(*place));
    let mut unfinished = parts.unfinished.clone();
    missing.retain(|(_, (_, part, _))| match unfinished.get_mut(&part.partition) {
        Some(left @ 1..) => {
            *left -= 1;
            true
        }
        _ => false,
    });
    missing.into_iter().rev().map(|(token, (_, _, part))| Entry { part, token }).collect()
}

/// The name of a part: `partition_min_max_level`, with a mutation's number at the end if there was one.
#[derive(Debug, PartialEq, Eq)]
struct PartName {
    partition: String,
    blocks: (u64, u64),
}

impl PartName {
    /// `None` for anything else that lies in a table's folder, such as `tmp_insert_…` and `detached`.
    fn parse(name: &str) -> Option<Self> {
        let mut fields = name.split('_');
        let (partition, min, max, level) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        level.parse::<u64>().ok()?;
        let is_part = fields.next().is_none_or(|mutation| mutation.parse::<u64>().is_ok()) && fields.next().is_none();
        is_part.then_some(())?;
        Some(Self { partition: partition.to_owned(), blocks: (min.parse().ok()?, max.parse().ok()?) })
    }

    /// Whether the other's rows are in this one: it is the same, or was merged into it.
    fn holds(&self, other: &Self) -> bool {
        self.partition == other.partition && self.blocks.0 <= other.blocks.0 && other.blocks.1 <= self.blocks.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(names: &[&str]) -> Parts {
        let mut parts = Parts::default();
        names.iter().for_each(|name| parts.add(name));
        parts
    }

    #[test]
    fn only_parts_are_parts() {
        assert_eq!(
            PartName::parse("20261116-730_3_9_2"),
            Some(PartName { partition: "20261116-730".into(), blocks: (3, 9) })
        );
        assert_eq!(
            PartName::parse("20261101_1_1_0_7"),
            Some(PartName { partition: "20261101".into(), blocks: (1, 1) })
        );
        for other in ["tmp_insert_20261101_2_2_0", "detached", "deduplication_logs", "format_version.txt"] {
            assert_eq!(PartName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn an_entry_without_its_part_is_revoked_and_others_are_not() {
        let log = "1\tp_1_1_0\ta\n1\tp_2_2_0\tb\n1\tp_3_3_1\tc\n1\tq_1_1_0\td\n2\tq_1_1_0\td\n1\tp_4_4_0\te\n";
        let interrupted = interrupted_entries(log, &parts(&["p_1_2_1", "p_3_3_1", "tmp_insert_p_9_9_0"]));
        assert_eq!(interrupted.iter().map(|entry| (entry.part, entry.token)).collect::<Vec<_>>(), [("p_4_4_0", "e")]);
    }

    #[test]
    fn entries_of_replaced_or_expired_parts_are_kept() {
        let log = "1\tp_1_1_0\ta\n1\tp_2_2_0\tb\n1\tp_3_3_0\tc\n";
        // A rebuild replaced all of p by one part of a higher number.
        assert!(interrupted_entries(log, &parts(&["p_4_4_0"])).is_empty());
        // One insert was interrupted at the same time: the newest.
        let interrupted = interrupted_entries(log, &parts(&["p_4_4_0", "tmp_insert_p_7_7_0", "tmp_insert_q_8_8_0"]));
        assert_eq!(interrupted.iter().map(|entry| entry.token).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_repair_revokes_once_and_removes_a_cut_off_line() {
        let root = std::env::temp_dir().join(format!("tallyhouse-dedup-log-{}", std::process::id()));
        let table = root.join("store/abc/abcdef");
        fs::create_dir_all(table.join("deduplication_logs")).unwrap();
        fs::create_dir_all(table.join("p_1_1_0")).unwrap();
        fs::create_dir_all(table.join("tmp_insert_p_5_5_0")).unwrap();
        let log = table.join("deduplication_logs/deduplication_log_2.txt");
        fs::write(table.join("deduplication_logs/deduplication_log_1.txt"), "1\tp_0_0_0\told\n").unwrap();
        fs::write(&log, "1\tp_1_1_0\ta\n1\tp_2_2_0\tb\n1\tp_3").unwrap();
        assert_eq!(repair(&[&root]).unwrap(), 1);
        assert_eq!(fs::read_to_string(&log).unwrap(), "1\tp_1_1_0\ta\n1\tp_2_2_0\tb\n2\tp_2_2_0\tb\n");
        assert_eq!(repair(&[&root]).unwrap(), 0);

        let elsewhere = root.join("elsewhere");
        fs::write(&elsewhere, "cut off, but not ours").unwrap();
        fs::remove_file(&log).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &log).unwrap();
        assert!(repair(&[&root]).is_err());
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "cut off, but not ours");
        fs::remove_dir_all(root).unwrap();
    }
}
