//! Which rows of a batch are refused. Decisions only: how a set of rows is tried is the caller's.
//!
//! ```text
//! some rows by themselves -> is it the store, most of the batch, or some rows?      (`sample`, `suspect`)
//! some: halves, until a refused part is one row -> all others together              (`find`)
//!       still refused (values that only clash together): the shortest refused beginning, whose last row goes; again
//! ```
//!
//! k refused rows of n cost O(k log n) trials. What is left was taken as a whole, by the same trial that refused the rest.

use std::ops::Range;

/// Rows that are tried by themselves first.
const SAMPLES: usize = 4;

/// So many refused rows need no more than a store that takes another row: a batch may be one event.
pub const FEW: usize = 3;

/// Trials of one search, at most; what was found until then is acted on, and the rest is searched again.
pub const MAX_TRIALS: usize = 2_000;

/// What a trial showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// These rows would be stored.
    Taken,
    /// They would not, all together.
    Refused(Cause),
}

/// Why rows are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// ClickHouse's number.
    pub code: u32,
    /// Why, for people. Holds no value of any event.
    pub reason: String,
}

/// What is to blame, as far as a few rows tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    /// The store: it takes no row, not even one that is known to be good.
    Store,
    /// More than half of the batch. That may be events, or a fault that hits one kind of them.
    Most,
    /// Some rows.
    Some,
}

/// Rows to try by themselves, spread evenly.
pub fn sample(rows: usize) -> Vec<usize> {
    let count = rows.min(SAMPLES);
    (0..count).map(|index| index * rows / count).collect()
}

/// `refused` of `sampled` rows are refused by themselves; `takes_canary` is whether the store takes a row that is known to be
/// good, which matters only when it takes none of these.
pub fn suspect(rows: usize, sampled: usize, refused: usize, takes_canary: bool) -> Suspect {
    match () {
        () if refused == sampled && !takes_canary => Suspect::Store,
        () if rows > FEW && refused * 2 > sampled => Suspect::Most,
        () => Suspect::Some,
    }
}

/// Refused rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// In order of rows.
    pub refused: Vec<(usize, Cause)>,
    /// Whether all others are taken together. Else the trials ran out.
    pub is_complete: bool,
}

/// Tries rows. A trait, because a task's future must be `Send`, and that of an async closure is not known to be.
pub trait Trials: Send {
    /// Why a trial showed nothing.
    type Error: Send;

    /// Tries some rows together: ascending ranges.
    fn try_rows(&mut self, rows: Vec<Range<usize>>) -> impl Future<Output = Result<Trial, Self::Error>> + Send;
}

/// Finds the rows that are refused; all rows together are known to be.
pub async fn find<T: Trials>(rows: usize, most_trials: usize, tried: &mut T) -> Result<Found, T::Error> {
    let mut trials = 0;
    let mut refused: Vec<(usize, Cause)> = Vec::new();
    let mut open = halves(&(0..rows));
    if rows == 1 {
        open.push(0..1);
    }
    while let Some(part) = open.pop() {
        if trials >= most_trials {
            return Ok(Found { refused, is_complete: false });
        }
        trials += 1;
        match tried.try_rows(vec![part.clone()]).await? {
            Trial::Taken => {}
            Trial::Refused(cause) if part.len() == 1 => refused.push((part.start, cause)),
            Trial::Refused(_) => open.extend(halves(&part)),
        }
    }
    let is_complete = drop_clashes(rows, &mut refused, most_trials, trials, tried).await?;
    refused.sort_by_key(|(row, _)| *row);
    Ok(Found { refused, is_complete })
}

/// Rows that are refused only beside others: of the shortest refused beginning the last row goes.
async fn drop_clashes<T: Trials>(
    rows: usize,
    refused: &mut Vec<(usize, Cause)>,
    most_trials: usize,
    mut trials: usize,
    tried: &mut T,
) -> Result<bool, T::Error> {
    // So many rows are taken together.
    let mut taken = 0;
    loop {
        let rest = without(rows, refused);
        let count = rest.iter().map(Range::len).sum();
        if count == 0 {
            return Ok(true);
        }
        if trials >= most_trials {
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

fn halves(part: &Range<usize>) -> Vec<Range<usize>> {
    if part.len() < 2 {
        return Vec::new();
    }
    let middle = part.start + part.len() / 2;
    // The first half is taken out first.
    vec![middle..part.end, part.start..middle]
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

    use proptest::prelude::*;

    use super::*;

    fn cause() -> Cause {
        Cause { code: 469, reason: String::new() }
    }

    /// A store that refuses some rows, and pairs of rows that clash.
    struct Picky {
        bad: BTreeSet<usize>,
        clashes: Vec<(usize, usize)>,
        trials: usize,
    }

    impl Trials for Picky {
        type Error = Infallible;

        async fn try_rows(&mut self, rows: Vec<Range<usize>>) -> Result<Trial, Infallible> {
            self.trials += 1;
            let tried: BTreeSet<usize> = rows.into_iter().flatten().collect();
            let clashing = self.clashes.iter().any(|(a, b)| tried.contains(a) && tried.contains(b));
            let is_refused = clashing || tried.iter().any(|row| self.bad.contains(row));
            Ok(if is_refused { Trial::Refused(cause()) } else { Trial::Taken })
        }
    }

    fn find_in(rows: usize, most: usize, store: &mut Picky) -> Found {
        futures_util::FutureExt::now_or_never(find(rows, most, store)).unwrap().unwrap()
    }

    /// What is refused, and how many trials it took.
    fn searched(rows: usize, bad: &BTreeSet<usize>, clashes: &[(usize, usize)]) -> (Vec<usize>, usize) {
        let mut store = Picky { bad: bad.clone(), clashes: clashes.to_vec(), trials: 0 };
        let found = find_in(rows, usize::MAX, &mut store);
        assert!(found.is_complete);
        (found.refused.into_iter().map(|(row, _)| row).collect(), store.trials)
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
            let bound = 2 * bad.len() * (rows.ilog2() as usize + 2) + 1;
            prop_assert!(trials <= bound, "{} trials, at most {}", trials, bound);
        }

        #[test]
        fn of_rows_that_clash_the_later_one_goes(rows in 4_usize..300, a in any::<prop::sample::Index>()) {
            let (a, bad) = (a.index(rows - 1), BTreeSet::new());
            let (found, trials) = searched(rows, &bad, &[(a, rows - 1)]);
            prop_assert_eq!(found, vec![rows - 1]);
            prop_assert!(trials <= 2 * (rows.ilog2() as usize + 4) * 2, "{} trials", trials);
        }
    }

    #[test]
    fn clashes_and_bad_rows_together_leave_what_is_taken() {
        let (found, _) = searched(50, &BTreeSet::from([3, 20]), &[(1, 5), (1, 40), (7, 8)]);
        assert_eq!(found, [3, 5, 8, 20, 40]);
    }

    #[test]
    fn a_search_that_is_too_long_tells_what_it_found() {
        let mut store = Picky { bad: (0..1_000).collect(), clashes: vec![], trials: 0 };
        let found = find_in(1_000, 100, &mut store);
        assert!(!found.is_complete && !found.refused.is_empty());
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
