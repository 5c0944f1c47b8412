//! Cuts the power, or fails the disk, at every operation of a log that is written, read, committed and retired. Unsynced
//! writes are on the disk in part: any sectors of them, and any of the names.
//!
//! No acknowledged record is lost, none is invented, and what the log says of damage is true.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::commit::{COMMIT, Commits};
use super::frame::{self, GROUP_HEADER};
use super::segments::{self, Bounds, Damage, Segments};
use super::simulated::Simulated;

/// Small, so that there are many.
const SEGMENT: u64 = 4 << 10;

const fn bounds(committed: i64) -> Bounds {
    Bounds { committed, named: committed, saved: i64::MIN }
}

/// What was done, from outside.
#[derive(Default, Clone)]
struct History {
    /// Every payload that was ever appended, by the offset that it would have.
    written: BTreeMap<i64, BTreeSet<Vec<u8>>>,
    /// Acknowledged, in order: the offset after a group.
    acknowledged: Vec<(i64, Vec<Vec<u8>>)>,
    /// Commits, and whether they were answered.
    committed: Vec<(i64, bool)>,
    serial: u64,
}

/// A process that uses the log.
struct Process<'a> {
    disk: &'a Simulated,
    log: Segments<Simulated>,
    commits: Commits<super::simulated::SimulatedFile>,
    committed: i64,
    history: &'a mut History,
    rng: StdRng,
}

/// Marks: which acknowledgement, or which commit, was answered.
const COMMITS: u64 = 1 << 32;

impl<'a> Process<'a> {
    fn start(disk: &'a Simulated, history: &'a mut History, seed: u64) -> std::io::Result<Self> {
        let (commits, committed, _) = Commits::open(disk, COMMIT)?;
        let committed = committed.map_or(0, |committed| committed.next);
        let (log, _) = Segments::open(disk.clone(), SEGMENT, bounds(committed), |_| {})?;
        Ok(Self { disk, log, commits, committed, history, rng: StdRng::seed_from_u64(seed) })
    }

    fn payload(&mut self) -> Vec<u8> {
        self.history.serial += 1;
        let length = [0, 3, 40, 700, 2_000][self.rng.random_range(0..5)];
        let mut payload = self.history.serial.to_le_bytes().to_vec();
        payload.extend((0..length).map(|_| self.rng.random::<u8>()));
        payload
    }

    fn append(&mut self) {
        let payloads: Vec<_> = (0..self.rng.random_range(1..6)).map(|_| self.payload()).collect();
        let mut group = vec![0; GROUP_HEADER];
        for (offset, payload) in (self.log.next()..).zip(&payloads) {
            frame::push_record(self.log.salt(), payload, &mut group);
            self.history.written.entry(offset).or_default().insert(payload.clone());
        }
        let first = self.log.next();
        if self.log.write(first, &mut group, payloads.len() as u32, 1).and_then(|()| self.log.sync()).is_ok() {
            // A segment that could not be begun may have changed where it starts.
            let first = self.log.next() - payloads.len() as i64;
            for (offset, payload) in (first..).zip(&payloads) {
                self.history.written.entry(offset).or_default().insert(payload.clone());
            }
            self.history.acknowledged.push((self.log.next(), payloads));
            self.disk.note(self.history.acknowledged.len() as u64);
        } else {
            assert!(self.log.next() <= first);
        }
        assert_eq!(self.log.synced(), self.log.next());
    }

    fn commit(&mut self) {
        let next = self.rng.random_range(self.committed..=self.log.synced());
        let metadata = "x".repeat(self.rng.random_range(0..600));
        let is_answered = self.commits.commit(next, &metadata).is_ok();
        self.history.committed.push((next, is_answered));
        if is_answered {
            self.committed = next;
            self.disk.note(COMMITS + self.history.committed.len() as u64);
            self.log.retire(next);
        }
    }

    fn prepare(&mut self) {
        if let Some((disk, bytes)) = self.log.wants_spare()
            && let Ok(spare) = segments::make_spare(&disk, bytes)
        {
            self.log.take_spare(spare);
        }
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.rng.random_range(0..10) {
                0..7 => self.append(),
                7 => self.disk.fail_after(self.rng.random_range(0..4)),
                8 => self.prepare(),
                _ => self.commit(),
            }
        }
    }
}

/// What a process that starts now finds, checked against what is known to have been acknowledged.
fn check(disk: &Simulated, history: &History, acknowledged: usize, committed: usize, context: &str) -> Damage {
    let (_, found, _) = Commits::open(disk, COMMIT).unwrap();
    let next = found.map_or(0, |found| found.next);
    let least =
        history.committed[..committed].iter().rfind(|(_, is_answered)| *is_answered).map_or(0, |(next, _)| *next);
    let is_known = next == 0 || history.committed.iter().any(|(known, _)| *known == next);
    assert!(is_known && next >= least, "{context}: committed {next}, {least}");

    let mut records = BTreeMap::new();
    let (log, damage) = Segments::open(disk.clone(), SEGMENT, bounds(next), |record| {
        let is_first = records.insert(record.offset, record.payload.to_vec()).is_none();
        assert!(is_first, "{context}: twice {}", record.offset);
    })
    .unwrap();
    assert!(log.next() >= next);
    records.retain(|offset, _| *offset >= next);
    for (offset, payload) in &records {
        assert!(
            history.written.get(offset).is_some_and(|known| known.contains(payload)),
            "{context}: invented {offset}"
        );
    }
    for (end, payloads) in &history.acknowledged[..acknowledged] {
        for (offset, payload) in (end - payloads.len() as i64..).zip(payloads) {
            assert!(offset < next || records.get(&offset) == Some(payload), "{context}: lost {offset} of {next}");
        }
    }
    // Reading says the same.
    let mut read = BTreeMap::new();
    let view = log.view(next, log.next());
    let progress = segments::read(&view, next, log.next(), |r| read.insert(r.offset, r.payload.to_vec()).is_none());
    let progress = progress.unwrap();
    assert!(read == records, "{context}: read {:?}, opened {:?}", read.keys(), records.keys());
    assert_eq!(progress.next, log.next(), "{context}");
    damage
}

/// A history with a restart in the middle, on a disk that fails now and then.
fn write(seed: u64) -> (Simulated, History) {
    let (disk, mut history) = (Simulated::default(), History::default());
    for (part, steps) in [(0, 20), (1, 20)] {
        let process = loop {
            // A failure that was left over may hit the start.
            if let Ok(process) = Process::start(&disk, &mut history, seed * 2 + part) {
                break process;
            }
        };
        { process }.run(steps);
    }
    (disk, history)
}

fn cut_everywhere(seeds: std::ops::Range<u64>, ways: u64) -> usize {
    let mut cuts = 0;
    for seed in seeds {
        let (disk, history) = write(seed);
        for ops in 0..=disk.ops() {
            let acknowledged = disk.noted_below(ops, COMMITS) as usize;
            let committed = disk.noted(ops).saturating_sub(COMMITS) as usize;
            for way in 0..ways {
                let context = format!("seed {seed}, {ops} operations, way {way}");
                let after = disk.cut(ops, way + ops as u64 * ways);
                let damage = check(&after, &history, acknowledged, committed, &context);
                assert_eq!((damage.records, damage.files), (0, 0), "{context}: {damage:?}");
                // The next process goes on, and the power goes again.
                let mut more = history.clone();
                more.acknowledged.truncate(acknowledged);
                more.committed.truncate(history.committed.len());
                let begun = after.ops();
                Process::start(&after, &mut more, way).unwrap().run(4);
                let ops = begun + (way as usize * 7919 + ops) % (after.ops() - begun + 1);
                let again = after.cut(ops, way);
                let known = after.noted_below(ops, COMMITS).max(acknowledged as u64) as usize;
                check(&again, &more, known, committed, &format!("{context}, again at {ops}"));
                cuts += 2;
            }
        }
    }
    cuts
}

#[test]
fn what_was_acknowledged_outlives_the_power() {
    // The last one has a segment that comes back with what a failed sync left.
    let cuts = cut_everywhere(0..6, 3) + cut_everywhere(119..120, 6);
    assert!(cuts > 3_000, "{cuts}");
}

/// `cargo test --release -p tallyhouse-ingest -- --ignored at_many_points`
#[test]
#[ignore = "takes minutes: 200,000 cuts"]
fn what_was_acknowledged_outlives_the_power_at_many_points() {
    println!("{} cuts", cut_everywhere(100..220, 6));
}

#[test]
fn damage_costs_what_is_damaged_and_is_counted() {
    for seed in 0..40 {
        let (disk, history) = write(seed);
        let disk = disk.cut(disk.ops(), 1);
        let (_, found, _) = Commits::open(&disk, COMMIT).unwrap();
        let next = found.map_or(0, |found| found.next);
        let all = {
            let mut all = BTreeMap::new();
            Segments::open(disk.cut(disk.ops(), 1), SEGMENT, bounds(next), |r| {
                drop(all.insert(r.offset, r.payload.to_vec()))
            })
            .unwrap();
            all
        };
        let mut rng = StdRng::seed_from_u64(seed);
        let Some((name, bytes)) = disk.a_segment(&mut rng) else { continue };
        match seed % 3 {
            0 => disk.flip(&name, rng.random_range(0..bytes * 8)),
            1 => (0..8 * bytes.min(512)).step_by(8).for_each(|bit| disk.flip(&name, bit)),
            _ => disk.make_unreadable(&name, rng.random_range(0..bytes)),
        }
        let mut found = BTreeMap::new();
        let (log, damage) = Segments::open(disk, SEGMENT, bounds(next), |record| {
            drop(found.insert(record.offset, record.payload.to_vec()))
        })
        .unwrap();
        let is_missing = |offset: &&i64| **offset >= next && !found.contains_key(offset);
        let missing: Vec<i64> = all.keys().filter(is_missing).copied().collect();
        assert!(found.iter().all(|(offset, payload)| history.written[offset].contains(payload)), "seed {seed}");
        // Damage at the very end cannot be told from what was never acknowledged; the file is kept all the same.
        let is_at_the_end = missing.first().is_some_and(|first| log.next() <= *first);
        let counted = if is_at_the_end { 0 } else { missing.len() as u64 };
        assert_eq!(damage.records, counted, "seed {seed}: {damage:?}, {missing:?}");
        assert!(!is_at_the_end || damage.files > 0 || damage.torn_bytes > 0, "seed {seed}: {damage:?}");
    }
}
