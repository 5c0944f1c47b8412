//! The accounts of this process, a bounded number of them.
//!
//! When a part of the table is full, accounts whose loss changes nothing go first, then those that were idle for longest. While Redis is
//! there, an account that goes takes nothing with it but a lease. Without Redis its caller begins with a full bucket: whoever has more
//! addresses than the table has places gains no more than with a new address each time.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::account::{Account, LeaseRequest};
use super::rule::Rule;

/// Accounts at most, of addresses and of callers each.
pub(super) const MOST: usize = 1 << 16;

const SHARDS: usize = 64;

/// Accounts whose bucket in Redis is looked at, at a time: those that were used last.
const LOOKS: usize = 256;

/// What of a full shard is forgotten at once: looking for the oldest costs as much for one as for many.
const FORGOTTEN: usize = MOST / SHARDS / 8;

type Shard = HashMap<u64, Account, BuildHasherDefault<AsItIs>>;

pub(super) struct Table {
    shards: Vec<Mutex<Shard>>,
}

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Table {
    /// Does something with the account of a caller, which is made if there is none. Gives how many others were forgotten for it.
    pub(super) fn with<T>(
        &self,
        caller: u64,
        rule: Rule,
        instances: u64,
        now: Instant,
        work: impl FnOnce(&mut Account) -> T,
    ) -> (T, usize) {
        // The high bits: the map uses the low ones.
        let Some(shard) = self.shards.get((caller >> 32) as usize % SHARDS) else {
            // There are always as many.
            return (work(&mut Account::new(rule, now)), 0);
        };
        let mut shard = lock(shard);
        let mut forgotten = 0;
        if shard.len() >= MOST / SHARDS && !shard.contains_key(&caller) {
            forgotten = make_room(&mut shard, instances, now);
        }
        let account = shard.entry(caller).or_insert_with(|| Account::new(rule, now));
        account.begin(rule, now);
        (work(account), forgotten)
    }

    /// The same, of an account that is there.
    pub(super) fn with_known(&self, caller: u64, work: impl FnOnce(&mut Account)) {
        if let Some(shard) = self.shards.get((caller >> 32) as usize % SHARDS)
            && let Some(account) = lock(shard).get_mut(&caller)
        {
            work(account);
        }
    }

    /// Forgets accounts that are as new ones would be. Gives what others have to give back, or to look at, if Redis is there.
    pub(super) fn tidy(&self, is_shared: bool, instances: u64, now: Instant) -> Vec<(u64, LeaseRequest)> {
        let (mut left_over, mut outdated) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            lock(shard).retain(|caller, account| {
                if is_shared {
                    left_over.extend(account.left_over(now).map(|request| (*caller, request)));
                }
                let stays = !account.is_forgettable(instances, now);
                if is_shared && stays && account.is_outdated(now) {
                    outdated.push((account.used_at(), *caller));
                }
                stays
            });
        }
        outdated.sort_unstable();
        for (_, caller) in outdated.into_iter().rev().take(LOOKS) {
            self.with_known(caller, |account| left_over.extend(account.look().map(|request| (caller, request))));
        }
        left_over
    }

    /// What all accounts have to give back. Gives how many have an exchange under way, and have not.
    pub(super) fn close(&self) -> (Vec<(u64, LeaseRequest)>, usize) {
        let (mut requests, mut flights) = (Vec::new(), 0);
        for shard in &self.shards {
            for (caller, account) in lock(shard).iter_mut() {
                match account.flight() {
                    Some(_) => flights += 1,
                    None => requests.extend(account.close().map(|request| (*caller, request))),
                }
            }
        }
        (requests, flights)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make_room(shard: &mut Shard, instances: u64, now: Instant) -> usize {
    let before = shard.len();
    shard.retain(|_, account| !account.is_forgettable(instances, now));
    if before - shard.len() < FORGOTTEN {
        let mut ages: Vec<(Instant, u64)> =
            shard.iter().map(|(caller, account)| (account.used_at(), *caller)).collect();
        ages.sort_unstable();
        ages.iter().take(FORGOTTEN).for_each(|(_, caller)| drop(shard.remove(caller)));
    }
    before - shard.len()
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, RandomState};
    use std::time::Duration;

    use super::*;

    #[test]
    fn any_number_of_callers_takes_bounded_memory_and_the_busy_ones_stay() {
        let (table, hasher, start) = (Table::default(), RandomState::new(), Instant::now());
        let rule = Rule::per_minute(10);
        let take = |caller: u64, now| {
            table.with(hasher.hash_one(caller), rule, 1, now, |account| account.take_local(1, 1, false, now).tokens).0
        };
        let used_up: u64 = (0..10).map(|_| take(0, start)).sum();
        assert_eq!(used_up, 10);
        for caller in 1..300_000_u64 {
            let now = start + Duration::from_micros(caller);
            take(caller, now);
            if caller % 100 == 0 {
                assert_eq!(take(0, now), 0, "the busy one was forgotten");
            }
        }
        assert!(table.len() <= MOST, "{}", table.len());
        table.tidy(false, 1, start + Duration::from_secs(3_600));
        assert_eq!(table.len(), 0);
    }
}
