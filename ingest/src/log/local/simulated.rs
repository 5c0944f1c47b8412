//! A disk in memory whose power can be cut after any operation.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::disk::{Disk, DiskFile};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

type Inode = usize;

#[derive(Debug, Clone)]
enum Op {
    Create(String, Inode, u64),
    Remove(String),
    Rename(String, String),
    Write(Inode, u64, Vec<u8>),
    Length(Inode, u64),
    Sync(Inode),
    SyncNames,
    /// Something that a test wants to know the place of.
    Note(u64),
}

#[derive(Default)]
struct DiskState {
    ops: Vec<Op>,
    names: BTreeMap<String, Inode>,
    files: Vec<Vec<u8>>,
    /// Operations that still succeed; `None`: all.
    until_failure: Option<usize>,
    /// A byte of a file that cannot be read.
    unreadable: Option<(Inode, usize)>,
}

#[derive(Clone, Default)]
pub(crate) struct Simulated(Arc<Mutex<DiskState>>);

pub(crate) struct SimulatedFile(Simulated, Inode);

impl Simulated {
    fn with<T>(&self, act: impl FnOnce(&mut DiskState) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// A mark between operations.
    pub(crate) fn note(&self, note: u64) {
        self.with(|state| state.ops.push(Op::Note(note)));
    }

    /// Operations so far.
    pub(crate) fn ops(&self) -> usize {
        self.with(|state| state.ops.len())
    }

    /// The operation after so many others fails, and only that one.
    pub(crate) fn fail_after(&self, ops: usize) {
        self.with(|state| state.until_failure = Some(ops));
    }

    /// A byte of a file cannot be read from now on.
    pub(crate) fn make_unreadable(&self, name: &str, byte: usize) {
        self.with(|state| state.unreadable = Some((state.names[name], byte)));
    }

    /// The highest mark before an operation.
    pub(crate) fn noted(&self, ops: usize) -> u64 {
        let note = |op: &Op| if let Op::Note(note) = op { Some(*note) } else { None };
        self.with(|state| state.ops[..ops].iter().filter_map(note).max().unwrap_or_default())
    }

    /// The same of marks below a bound.
    pub(crate) fn noted_below(&self, ops: usize, bound: u64) -> u64 {
        let note = |op: &Op| if let Op::Note(note) = op { Some(*note).filter(|note| *note < bound) } else { None };
        self.with(|state| state.ops[..ops].iter().filter_map(note).max().unwrap_or_default())
    }

    /// Some segment, and how many of its bytes are not zeros at its end.
    pub(crate) fn a_segment(&self, rng: &mut StdRng) -> Option<(String, usize)> {
        self.with(|state| {
            let segments: Vec<_> = state.names.iter().filter(|(name, _)| name.ends_with(".log")).collect();
            let (name, inode) = segments.get(rng.random_range(0..segments.len().max(1)))?;
            let used = state.files[**inode].iter().rposition(|byte| *byte != 0)?;
            Some(((*name).clone(), used + 1))
        })
    }

    /// What is on the disk when the power goes after so many operations: all that was synced, and whatever of the rest the
    /// seed chooses, sector by sector.
    pub(crate) fn cut(&self, ops: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // Nothing of what was not synced, all, or some.
        let chance = [0.0, 1.0, 0.5, 0.9, 0.1][rng.random_range(0..5)];
        let log = self.with(|state| state.ops[..ops].to_vec());
        let mut files: Vec<Vec<u8>> = Vec::new();
        let mut names: BTreeMap<String, Inode> = BTreeMap::new();
        let is_synced =
            |from: usize, inode: Inode| log[from..].iter().any(|op| matches!(op, Op::Sync(synced) if *synced == inode));
        for (at, op) in log.iter().enumerate() {
            match op {
                Op::Create(name, inode, bytes) => {
                    files.resize(files.len().max(inode + 1), Vec::new());
                    files[*inode] = vec![0; *bytes as usize];
                    if log[at..].iter().any(|op| matches!(op, Op::SyncNames)) || rng.random_bool(chance) {
                        names.insert(name.clone(), *inode);
                    }
                }
                Op::Remove(name) => {
                    if log[at..].iter().any(|op| matches!(op, Op::SyncNames)) || rng.random_bool(chance) {
                        names.remove(name);
                    }
                }
                Op::Rename(from, to) => {
                    let is_done = log[at..].iter().any(|op| matches!(op, Op::SyncNames)) || rng.random_bool(chance);
                    if is_done && let Some(inode) = names.remove(from) {
                        names.insert(to.clone(), inode);
                    }
                }
                Op::Write(inode, place, bytes) => {
                    let all = is_synced(at, *inode);
                    let mut from = 0;
                    while from < bytes.len() {
                        let start = *place as usize + from;
                        let length = (SECTOR - start % SECTOR).min(bytes.len() - from);
                        if all || rng.random_bool(chance) {
                            let file = &mut files[*inode];
                            file.resize(file.len().max(start + length), 0);
                            file[start..start + length].copy_from_slice(&bytes[from..from + length]);
                        }
                        from += length;
                    }
                }
                Op::Length(inode, bytes) => {
                    if is_synced(at, *inode) || rng.random_bool(chance) {
                        files[*inode].resize(*bytes as usize, 0);
                    }
                }
                Op::Sync(_) | Op::SyncNames | Op::Note(_) => {}
            }
        }
        let state = DiskState { names, files, ..DiskState::default() };
        // What survived is what the next process begins with: as if it had been synced.
        let survived: Vec<(String, Inode)> = state.names.iter().map(|(name, inode)| (name.clone(), *inode)).collect();
        let disk = Self(Arc::new(Mutex::new(state)));
        disk.with(|state| {
            for (name, inode) in survived {
                state.ops.push(Op::Create(name, inode, 0));
                state.ops.push(Op::Write(inode, 0, state.files[inode].clone()));
                state.ops.push(Op::Sync(inode));
            }
            state.ops.push(Op::SyncNames);
        });
        disk
    }

    /// Changes one bit of a file.
    pub(crate) fn flip(&self, name: &str, bit: usize) {
        self.with(|state| {
            let inode = state.names[name];
            state.files[inode][bit / 8] ^= 1 << (bit % 8);
        });
    }

    fn act(&self, op: Op) -> io::Result<()> {
        self.with(|state| {
            match &mut state.until_failure {
                Some(0) => {
                    state.until_failure = None;
                    return Err(io::Error::other("the disk failed"));
                }
                Some(left) => *left -= 1,
                None => {}
            }
            match &op {
                Op::Create(name, inode, bytes) => {
                    state.names.insert(name.clone(), *inode);
                    state.files.push(vec![0; *bytes as usize]);
                }
                Op::Remove(name) => drop(state.names.remove(name)),
                Op::Rename(from, to) => {
                    let inode = state.names.remove(from).unwrap();
                    state.names.insert(to.clone(), inode);
                }
                Op::Write(inode, place, bytes) => {
                    let (file, start) = (&mut state.files[*inode], *place as usize);
                    file.resize(file.len().max(start + bytes.len()), 0);
                    file[start..start + bytes.len()].copy_from_slice(bytes);
                }
                Op::Length(inode, bytes) => state.files[*inode].resize(*bytes as usize, 0),
                Op::Sync(_) | Op::SyncNames | Op::Note(_) => {}
            }
            state.ops.push(op);
            Ok(())
        })
    }
}

impl Disk for Simulated {
    type File = SimulatedFile;

    fn create(&self, name: &str, bytes: u64) -> io::Result<SimulatedFile> {
        let inode = self.with(|state| state.files.len());
        if self.with(|state| state.names.contains_key(name)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.act(Op::Create(name.to_owned(), inode, bytes))?;
        Ok(SimulatedFile(self.clone(), inode))
    }

    fn open(&self, name: &str) -> io::Result<SimulatedFile> {
        let inode = self.with(|state| state.names.get(name).copied());
        inode.map(|inode| SimulatedFile(self.clone(), inode)).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.with(|state| state.names.keys().cloned().collect()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if self.with(|state| state.names.contains_key(name)) { self.act(Op::Remove(name.to_owned())) } else { Ok(()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.act(Op::Rename(from.to_owned(), to.to_owned()))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.act(Op::SyncNames)
    }

    fn free(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl DiskFile for SimulatedFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.act(Op::Write(self.1, at, bytes.to_vec()))
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.with(|state| {
            let file = &state.files[self.1];
            let from = (at as usize).min(file.len());
            let length = bytes.len().min(file.len() - from);
            if state.unreadable.is_some_and(|(inode, byte)| inode == self.1 && (from..from + length).contains(&byte)) {
                return Err(rustix::io::Errno::IO.into());
            }
            bytes[..length].copy_from_slice(&file[from..from + length]);
            Ok(length)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.0.act(Op::Sync(self.1))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.act(Op::Length(self.1, bytes))
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.with(|state| state.files[self.1].len() as u64))
    }
}
