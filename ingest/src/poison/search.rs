//! Finds the refused rows of a batch. Decisions only: the caller tries sets of rows.
//!
//! ```text
//! some rows by themselves -> is it the store, most of the batch, or some rows?           (`sample`, `suspect`)
//! some: quarters, level by level, until refused parts are rows or a limit is reached      (`find`)
//!       -> all others together; still refused (values that only clash together): the shortest refused beginning,
//!          whose last row goes; again
//! ```
//!
//! k refused rows of n cost O(k log n) trials. What is left was taken as a whole, by the same trial that refused the rest.
//!
//! **Others wait for the batch**, so not every row is tried: a refused part of at least `RUN` rows goes as a whole when
//! `SAMPLES_OF_RUN` of its rows are all refused by themselves, and so does a refused part when the [`Limits`] are reached. The
//! caller numbers rows by kind (project and event type), since events of one kind are refused together as a rule: so it is the
//! inside of a run of refused rows that is not tried row by row. A good event among them is a dead letter, too, to be replayed.

use std::ops::Range;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

/// Rows that are tried by themselves first.
const SAMPLES: usize = 4;

/// So many refused rows need no more than a store that takes another row: a batch may be one event.
pub const FEW: usize = 3;

/// How long one searches.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Trials, at most, and about as many for rows that clash. 65 refused rows of 65,000 at random places need 1,500.
    pub trials: usize,
    /// Nor longer than this, for each of both.
    pub time: Duration,
    /// Not ended for the time before so many trials: these find a few refused rows, also when ClickHouse is slow.
    pub at_least: usize,
}

impl Limits {
    /// Of a batch that others wait for.
    pub const DEFAULT: Self = Self { trials: 2_000, time: Duration::from_secs(60), at_least: 100 };

    fn are_reached(&self, started: Instant, trials: usize) -> bool {
        trials >= self.trials || (trials >= self.at_least && started.elapsed() >= self.time)
    }
}

/// The shortest part that may go as a whole for its samples.
const RUN: usize = 64;

/// Rows of it that are tried by themselves. Half of a part good: none of these is in one of 65,000 cases.
const SAMPLES_OF_RUN: usize = 16;

/// A refused part is taken apart in so many.
const PARTS: usize = 4;

/// Trials under way.
pub const AT_ONCE: usize = 4;

/// What a trial showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// These rows would be stored.
    Taken,
    /// They would not, all together.
    Refused(Cause),
}

impl Trial {
    fn cause(self) -> Option<Cause> {
        match self {
            Self::Taken => None,
            Self::Refused(cause) => Some(cause),
        }
    }
}

/// Why rows are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The number of ClickHouse's error.
    pub code: u32,
    /// Why, for people. Holds no value of any event.
    pub reason: String,
}

impl Cause {
    /// Of a row that was not tried by itself.
    fn together(&self) -> Self {
        Self { code: self.code, reason: format!("together with others of its batch: {}", self.reason) }
    }
}

/// What is to blame, as far as a few rows tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    /// The store: it takes no row, of whatever kind.
    Store,
    /// More than half of the batch. That may be events, or a fault that hits one kind of them.
    Most,
    /// At most half of the batch, or a small batch: its rows are tried by themselves.
    Some,
}

/// Rows to try by themselves, spread evenly.
pub fn sample(rows: usize) -> Vec<usize> {
    let count = rows.min(SAMPLES);
    (0..count).map(|index| index * rows / count).collect()
}

/// `refused` of `sampled` rows are refused by themselves; `takes_canary` is whether the store takes a row of another kind, which
/// matters only when it takes none of these.
pub fn suspect(rows: usize, sampled: usize, refused: usize, takes_canary: bool) -> Suspect {
    match () {
        () if refused == sampled && !takes_canary => Suspect::Store,
        () if rows > FEW && refused * 2 > sampled => Suspect::Most,
        () => Suspect::Some,
    }
}

/// The rows that a search found to be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRows {
    /// In order of rows.
    pub refused: Vec<(usize, Cause)>,
    /// So many of them were refused together with others and not tried by themselves.
    pub untried: usize,
    /// Whether all others are taken together. Else a limit was reached.
    pub is_complete: bool,
}

/// Tries rows. A trait, because a task's future must be `Send`, and that of an async closure is not known to be.
pub trait Trials: Sync {
    /// Why a trial showed nothing.
    type Error: Send;

    /// Tries some rows together: ascending ranges.
    fn try_rows(&self, rows: Vec<Range<usize>>) -> impl Future<Output = Result<Trial, Self::Error>> + Send;
}

/// Finds the rows that are refused; all rows together are known to be, for this cause.
pub async fn find<T: Trials>(rows: usize, whole: Cause, limits: Limits, tried: &T) -> Result<RefusedRows, T::Error> {
    let (started, mut trials) = (Instant::now(), 0);
    let (mut refused, mut untried): (Vec<(usize, Cause)>, usize) = (Vec::new(), 0);
    // Parts of one size, each refused.
    let mut open = vec![(0..rows, whole)];
    loop {
        let is_last = limits.are_reached(started, trials + PARTS * open.len());
        let looking: Vec<_> = open.drain(..).map(|(part, cause)| look(tried, part, cause, is_last)).collect();
        let looked: Vec<Looked> = stream::iter(looking).buffered(AT_ONCE).try_collect().await?;
        for Looked { part, cause, is_whole, trials: more } in looked {
            trials += more;
            match part.len() {
                1 => refused.push((part.start, cause)),
                length if is_whole => {
                    untried += length;
                    refused.extend(part.map(|row| (row, cause.together())));
                }
                _ => open.push((part, cause)),
            }
        }
        if open.is_empty() {
            break;
        }
        let parts: Vec<_> = open.iter().flat_map(|(part, _)| parts(part)).collect();
        trials += parts.len();
        let trying: Vec<_> = parts.into_iter().map(|part| try_part(tried, part)).collect();
        let results: Vec<_> = stream::iter(trying).buffered(AT_ONCE).try_collect().await?;
        open = results.into_iter().filter_map(|(part, trial)| Some((part, trial.cause()?))).collect();
    }
    refused.sort_by_key(|(row, _)| *row);
    let is_complete = drop_clashes(rows, &mut refused, limits, tried).await?;
    Ok(RefusedRows { refused, untried, is_complete })
}

/// A refused part.
struct Looked {
    part: Range<usize>,
    cause: Cause,
    /// It is not taken apart any more.
    is_whole: bool,
    trials: usize,
}

/// Whether a refused part goes as a whole.
async fn look<T: Trials>(tried: &T, part: Range<usize>, cause: Cause, is_last: bool) -> Result<Looked, T::Error> {
    let (mut is_whole, mut trials) = (is_last, 0);
    if !is_last && part.len() >= RUN {
        is_whole = true;
        let rows: Vec<_> = (0..SAMPLES_OF_RUN).map(|index| part.start + index * part.len() / SAMPLES_OF_RUN).collect();
        let trying: Vec<_> = rows.into_iter().map(|row| try_part(tried, row..row + 1)).collect();
        let mut results = stream::iter(trying).buffered(AT_ONCE);
        while let Some((_, trial)) = results.try_next().await? {
            trials += 1;
            if trial == Trial::Taken {
                is_whole = false;
                break;
            }
        }
    }
    Ok(Looked { part, cause, is_whole, trials })
}

async fn try_part<T: Trials>(tried: &T, part: Range<usize>) -> Result<(Range<usize>, Trial), T::Error> {
    Ok((part.clone(), tried.try_rows(vec![part]).await?))
}

/// Rows that are refused only beside others: of the shortest refused beginning the last row goes.
async fn drop_clashes<T: Trials>(
    rows: usize,
    refused: &mut Vec<(usize, Cause)>,
    limits: Limits,
    tried: &T,
) -> Result<bool, T::Error> {
    let (started, mut trials) = (Instant::now(), 0);
    // So many rows are taken together.
    let mut taken = 0;
    loop {
        let rest = without(rows, refused);
        let count = rest.iter().map(Range::len).sum();
        if count == 0 {
            return Ok(true);
        }
        if limits.are_reached(started, trials) {
            return Ok(false);
        }
        trials += 1;
        let Trial::Refused(mut cause) = tried.try_rows(rest.clone()).await? else { return Ok(true) };
        let mut longest_refused: usize = count;
        while taken + 1 < longest_refused {
            let middle = taken + (longest_refused - taken) / 2;
            trials += 1;
            match tried.try_rows(first(&rest, middle)).await? {
                Trial::Taken => taken = middle,
                Trial::Refused(why) => (longest_refused, cause) = (middle, why),
            }
        }
        let Some(row) = first(&rest, longest_refused).last().map(|range| range.end - 1) else { return Ok(true) };
        refused.push((row, cause));
        refused.sort_by_key(|(row, _)| *row);
    }
}

/// A part of at least two rows, in parts that are not empty.
fn parts(whole: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let (start, length, count) = (whole.start, whole.len(), whole.len().min(PARTS));
    (0..count).map(move |index| start + index * length / count..start + (index + 1) * length / count)
}

/// The first rows of some ranges.
fn first(ranges: &[Range<usize>], mut rows: usize) -> Vec<Range<usize>> {
    let mut taken = Vec::new();
    for range in ranges {
        let length = range.len().min(rows);
        rows -= length;
        if length > 0 {
            taken.push(range.start..range.start + length);
        }
    }
    taken
}

/// All rows but some, which are in order.
pub fn without<T>(rows: usize, left_out: &[(usize, T)]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut next = 0;
    for (row, _) in left_out {
        if *row > next {
            ranges.push(next..*row);
        }
        next = row + 1;
    }
    if next < rows {
        ranges.push(next..rows);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn cause() -> Cause {
        Cause { code: 469, reason: String::new() }
    }

    /// A store that refuses some rows, and pairs of rows that clash.
    struct Picky {
        bad: BTreeSet<usize>,
        clashes: Vec<(usize, usize)>,
        trials: AtomicUsize,
    }

    impl Trials for Picky {
        type Error = Infallible;

        async fn try_rows(&self, rows: Vec<Range<usize>>) -> Result<Trial, Infallible> {
            self.trials.fetch_add(1, Ordering::Relaxed);
            let tried: BTreeSet<usize> = rows.into_iter().flatten().collect();
            let clashing = self.clashes.iter().any(|(a, b)| tried.contains(a) && tried.contains(b));
            let is_refused = clashing || tried.iter().any(|row| self.bad.contains(row));
            Ok(if is_refused { Trial::Refused(cause()) } else { Trial::Taken })
        }
    }

    fn find_in(rows: usize, limits: Limits, store: &Picky) -> RefusedRows {
        futures_util::FutureExt::now_or_never(find(rows, cause(), limits, store)).unwrap().unwrap()
    }

    /// What is refused, and how many trials it took.
    fn searched(rows: usize, bad: &BTreeSet<usize>, clashes: &[(usize, usize)]) -> (Vec<usize>, usize) {
        let store = Picky { bad: bad.clone(), clashes: clashes.to_vec(), trials: AtomicUsize::new(0) };
        let found = find_in(rows, Limits { trials: usize::MAX, ..Limits::DEFAULT }, &store);
        assert!(found.is_complete && found.untried == 0);
        (found.refused.into_iter().map(|(row, _)| row).collect(), store.trials.into_inner())
    }

    proptest! {
        #[test]
        fn exactly_the_bad_rows_are_found(
            rows in 1_usize..300,
            picks in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
        ) {
            let bad: BTreeSet<usize> = picks.iter().map(|pick| pick.index(rows)).collect();
            let (found, trials) = searched(rows, &bad, &[]);
            prop_assert_eq!(&found, &bad.iter().copied().collect::<Vec<_>>());
            let bound = (2 + SAMPLES_OF_RUN) * bad.len() * (rows.ilog2() as usize + 2) + 1;
            prop_assert!(trials <= bound, "{} trials, at most {}", trials, bound);
        }

        #[test]
        fn of_rows_that_clash_the_later_one_goes(rows in 4_usize..300, a in any::<prop::sample::Index>()) {
            let (a, bad) = (a.index(rows - 1), BTreeSet::new());
            let (found, trials) = searched(rows, &bad, &[(a, rows - 1)]);
            prop_assert_eq!(found, vec![rows - 1]);
            prop_assert!(trials <= 2 * (rows.ilog2() as usize + 4) * 2 + 3, "{} trials", trials);
        }
    }

    #[test]
    fn clashes_and_bad_rows_together_leave_what_is_taken() {
        let (found, _) = searched(50, &BTreeSet::from([3, 20]), &[(1, 5), (1, 40), (7, 8)]);
        assert_eq!(found, [3, 5, 8, 20, 40]);
    }

    #[test]
    fn a_search_that_is_too_long_takes_the_inside_of_a_refused_run_as_a_whole() {
        let long = Limits { time: Duration::ZERO, ..Limits::DEFAULT };
        for limits in [Limits { trials: 200, ..Limits::DEFAULT }, Limits { at_least: 200, ..long }] {
            ends_at(limits);
        }
        // A few are found whatever it takes.
        let store = Picky { bad: BTreeSet::from([17, 60_000]), clashes: vec![], trials: AtomicUsize::new(0) };
        let found = find_in(65_536, long, &store);
        assert_eq!((found.refused.len(), found.untried, found.is_complete), (2, 0, true));
    }

    fn ends_at(limits: Limits) {
        let bad: BTreeSet<usize> = (3_000..40_000).collect();
        let store = Picky { bad: bad.clone(), clashes: vec![], trials: AtomicUsize::new(0) };
        let found = find_in(65_536, limits, &store);
        assert!(store.trials.into_inner() < 400, "others wait for it");
        assert!(found.is_complete && found.untried > 0);
        let refused: BTreeSet<usize> = found.refused.iter().map(|(row, _)| *row).collect();
        assert!(refused.is_superset(&bad));
        // Of the two ends of the run, one part each.
        assert!(refused.len() - bad.len() < 2_048, "{} good rows went, too", refused.len() - bad.len());
        assert!(found.refused.iter().all(|(_, cause)| cause.reason.starts_with("together with others")));
    }

    #[test]
    fn who_is_to_blame() {
        assert_eq!(suspect(1, 1, 1, false), Suspect::Store);
        assert_eq!(suspect(1, 1, 1, true), Suspect::Some);
        assert_eq!(suspect(1_000, 8, 8, false), Suspect::Store);
        assert_eq!(suspect(1_000, 8, 8, true), Suspect::Most);
        assert_eq!(suspect(1_000, 8, 5, false), Suspect::Most);
        assert_eq!(suspect(1_000, 8, 4, false), Suspect::Some);
        assert_eq!(suspect(1_000, 8, 0, false), Suspect::Some);
    }

    #[test]
    fn samples_are_spread() {
        assert_eq!(sample(3), [0, 1, 2]);
        assert_eq!(sample(80), [0, 20, 40, 60]);
    }
}
