//! Which flights go together in a batch, in what order, and which are sent twice. Pure, and the same for the same seed.

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// In what order flights are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedOrder {
    /// As they were scheduled, as live events come.
    Time,
    /// All mixed up, as after an outage of everything.
    Shuffled {
        /// The same seed gives the same order.
        seed: u64,
    },
}

/// How flights become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedPlan {
    /// The order.
    pub order: FeedOrder,
    /// Flights in a batch, before repeats join it.
    pub batch: usize,
    /// Share of the flights that is sent a second time, each in another batch than the first.
    pub repeat_percent: u32,
}

impl FeedPlan {
    /// The batches, as indices into `scheduled`.
    pub fn batches(&self, scheduled: &[Timestamp]) -> Vec<Vec<usize>> {
        let mut rows: Vec<usize> = (0..scheduled.len()).collect();
        let seed = match self.order {
            FeedOrder::Time => {
                rows.sort_by_key(|&row| scheduled.get(row));
                0
            }
            FeedOrder::Shuffled { seed } => {
                rows.shuffle(&mut StdRng::seed_from_u64(seed));
                seed
            }
        };
        let mut batches: Vec<Vec<usize>> = rows.chunks(self.batch.max(1)).map(<[usize]>::to_vec).collect();
        self.repeat(&mut batches, seed);
        batches
    }

    fn repeat(&self, batches: &mut Vec<Vec<usize>>, seed: u64) {
        if self.repeat_percent == 0 {
            return;
        }
        if batches.len() == 1 {
            batches.push(Vec::new());
        }
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        let count = batches.len();
        let repeats: Vec<(usize, usize)> = batches
            .iter()
            .enumerate()
            .flat_map(|(home, rows)| rows.iter().map(move |&row| (home, row)))
            .filter(|_| rng.random_range(0..100) < self.repeat_percent)
            .collect();
        for (home, row) in repeats {
            let elsewhere = (home + rng.random_range(1..count)) % count;
            if let Some(batch) = batches.get_mut(elsewhere) {
                batch.push(row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn times(count: i64) -> Vec<Timestamp> {
        (0..count).map(|i| Timestamp::from_second((i * 7_919) % 1_000).unwrap()).collect()
    }

    #[test]
    fn every_flight_is_sent_once_in_time_order() {
        let times = times(1_050);
        let batches = FeedPlan { order: FeedOrder::Time, batch: 100, repeat_percent: 0 }.batches(&times);
        assert_eq!(batches.len(), 11);
        let sent: Vec<usize> = batches.concat();
        assert!(sent.is_sorted_by_key(|&row| times[row]));
        let mut rows = sent;
        rows.sort_unstable();
        assert_eq!(rows, (0..1_050).collect::<Vec<_>>());
    }

    #[test]
    fn repeats_are_never_in_the_batch_of_the_first_copy() {
        let plan = FeedPlan { order: FeedOrder::Shuffled { seed: 7 }, batch: 100, repeat_percent: 5 };
        let times = times(10_000);
        let batches = plan.batches(&times);
        assert_eq!(batches, plan.batches(&times), "the same seed, the same plan");
        let mut copies = BTreeMap::<usize, Vec<usize>>::new();
        for (batch, rows) in batches.iter().enumerate() {
            rows.iter().for_each(|&row| copies.entry(row).or_default().push(batch));
        }
        assert_eq!(copies.len(), 10_000);
        let twice = copies.values().filter(|batches| batches.len() == 2).count();
        assert!((400..600).contains(&twice), "{twice}");
        assert!(copies.values().all(|batches| batches.len() == 1 || batches[0] != batches[1]));
    }
}
