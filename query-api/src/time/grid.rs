//! The grid of buckets: where each starts in a time zone, through every change of its clocks.

use jiff::civil::Date;
use jiff::{Span, ToSpan};

use super::{Granularity, Zone};

/// The bucket starts of a range, in the shorter of two forms. The database groups by exactly these numbers, so its own
/// idea of time zones never matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grid {
    /// `count` buckets of `width` seconds from `origin` on.
    Even {
        /// Start of the first bucket.
        origin: i64,
        /// Seconds in each.
        width: i64,
        count: i64,
    },
    /// Buckets of different lengths: months, or days around a change of clocks.
    Uneven(Vec<i64>),
}

impl Grid {
    /// The buckets that `[from, to)` touches.
    pub fn over(granularity: Granularity, zone: &Zone, from: i64, to: i64) -> Self {
        let origin = floor(granularity, zone, from);
        if let (true, Some(width)) = (zone.is_steady(origin, to), granularity.clock_seconds()) {
            let count = (to - origin).max(0).div_euclid(width) + i64::from((to - origin).rem_euclid(width) > 0);
            return Self::Even { origin, width, count };
        }
        let mut edges = vec![origin];
        let mut end = next(granularity, zone, origin);
        while end < to {
            edges.push(end);
            end = next(granularity, zone, end);
        }
        let width = end - edges.last().copied().unwrap_or(origin);
        let even = edges.windows(2).all(|pair| matches!(pair, [a, b] if b - a == width));
        if even { Self::Even { origin, width, count: edges.len() as i64 } } else { Self::Uneven(edges) }
    }

    /// All bucket starts, in order.
    pub fn starts(&self) -> Vec<i64> {
        match self {
            Self::Even { origin, width, count } => (0..*count).map(|i| origin + i * width).collect(),
            Self::Uneven(edges) => edges.clone(),
        }
    }

    /// Whether every border between two buckets is a multiple of `seconds` since the epoch.
    pub fn is_aligned_to(&self, seconds: i64) -> bool {
        match self {
            Self::Even { count: ..=1, .. } => true,
            Self::Even { origin, width, count } => {
                (origin + width) % seconds == 0 && (*count == 2 || width % seconds == 0)
            }
            Self::Uneven(edges) => edges.iter().skip(1).all(|edge| edge % seconds == 0),
        }
    }
}

/// The start of the bucket that `at` is in.
pub fn floor(granularity: Granularity, zone: &Zone, at: i64) -> i64 {
    match granularity.clock_seconds() {
        Some(width) => clock_floor(width, zone, at),
        None => zone.day_start(first_day(granularity, zone.date(at))),
    }
}

/// The start of the bucket after the one that starts at `edge`.
pub fn next(granularity: Granularity, zone: &Zone, edge: i64) -> i64 {
    match granularity.clock_seconds() {
        Some(width) => clock_next(width, zone, edge),
        None => {
            let following = zone.date(edge).checked_add(calendar_span(granularity));
            // A date that does not exist in the zone (Samoa skipped one) starts where the date before it did.
            following.map_or(i64::MAX, |date| zone.day_start(date)).max(edge + 1)
        }
    }
}

/// `at`, if a bucket starts there, else the start of the next bucket.
pub fn ceil(granularity: Granularity, zone: &Zone, at: i64) -> i64 {
    let start = floor(granularity, zone, at);
    if start == at { at } else { next(granularity, zone, start) }
}

fn first_day(granularity: Granularity, date: Date) -> Date {
    match granularity {
        Granularity::Week => {
            let back = i64::from(date.weekday().to_monday_zero_offset());
            date.checked_sub(back.days()).unwrap_or(date)
        }
        Granularity::Month => date.first_of_month(),
        _ => date,
    }
}

fn calendar_span(granularity: Granularity) -> Span {
    match granularity {
        Granularity::Week => 1.week(),
        Granularity::Month => 1.month(),
        _ => 1.day(),
    }
}

/// An instant is an edge when the local clock shows a multiple of `width` at it. A change of clocks by less than `width`
/// (Lord Howe: half an hour) jumps over edges or repeats them, so the candidate is followed until it is one.
fn clock_floor(width: i64, zone: &Zone, at: i64) -> i64 {
    let mut edge = round_down(width, zone, at);
    loop {
        let again = round_down(width, zone, edge);
        if again == edge {
            return edge;
        }
        edge = again;
    }
}

fn clock_next(width: i64, zone: &Zone, edge: i64) -> i64 {
    let mut candidate = edge + width;
    loop {
        let start = clock_floor(width, zone, candidate);
        if start > edge {
            return start;
        }
        candidate = round_down(width, zone, candidate).max(edge) + width;
    }
}

fn round_down(width: i64, zone: &Zone, at: i64) -> i64 {
    at - (at + zone.offset(at)).rem_euclid(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::named(name).unwrap()
    }

    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    }

    fn starts(granularity: Granularity, name: &str, from: &str, to: &str) -> Vec<String> {
        let zone = zone(name);
        Grid::over(granularity, &zone, at(from), at(to)).starts().into_iter().map(|start| zone.rfc3339(start)).collect()
    }

    #[test]
    fn days_follow_the_clocks() {
        assert_eq!(
            starts(Granularity::Day, "Europe/Berlin", "2026-03-27T23:00:00Z", "2026-03-30T22:00:00Z"),
            ["2026-03-28T00:00:00+01:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"]
        );
        let newyork = Grid::over(
            Granularity::Day,
            &zone("America/New_York"),
            at("2026-10-31T04:00:00Z"),
            at("2026-11-03T05:00:00Z"),
        );
        let starts = newyork.starts();
        assert_eq!(starts.windows(2).map(|w| (w[1] - w[0]) / 3_600).collect::<Vec<_>>(), [24, 25]);
        assert!(newyork.is_aligned_to(3_600) && !newyork.is_aligned_to(86_400));
    }

    #[test]
    fn an_hour_that_happens_twice_is_two_buckets() {
        assert_eq!(
            starts(Granularity::Hour, "Europe/Berlin", "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"),
            ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"]
        );
    }

    #[test]
    fn half_hour_zones_have_their_own_hours() {
        assert_eq!(
            starts(Granularity::Hour, "Asia/Kolkata", "2026-11-20T00:00:00Z", "2026-11-20T01:30:00Z"),
            ["2026-11-20T05:00:00+05:30", "2026-11-20T06:00:00+05:30"]
        );
        let grid =
            Grid::over(Granularity::Day, &zone("Asia/Kolkata"), at("2026-11-19T18:30:00Z"), at("2026-11-21T18:30:00Z"));
        assert!(grid.is_aligned_to(60) && !grid.is_aligned_to(3_600));
    }

    #[test]
    fn clocks_that_move_by_half_an_hour_make_one_long_bucket() {
        let hours = starts(Granularity::Hour, "Australia/Lord_Howe", "2026-10-03T14:30:00Z", "2026-10-03T17:00:00Z");
        assert_eq!(hours, ["2026-10-04T01:00:00+10:30", "2026-10-04T03:00:00+11:00"]);
        let hours = starts(Granularity::Hour, "Australia/Lord_Howe", "2026-04-04T14:00:00Z", "2026-04-04T16:30:00Z");
        assert_eq!(hours, ["2026-04-05T01:00:00+11:00", "2026-04-05T02:00:00+10:30"]);
    }

    #[test]
    fn weeks_start_on_monday_and_months_on_the_first() {
        assert_eq!(
            starts(Granularity::Week, "UTC", "2026-11-18T10:00:00Z", "2026-11-24T00:00:00Z"),
            ["2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"]
        );
        assert_eq!(
            starts(Granularity::Month, "UTC", "2026-01-31T10:00:00Z", "2026-03-01T00:00:00Z"),
            ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"]
        );
    }

    #[test]
    fn even_grids_are_recognised_and_partial_buckets_counted() {
        let grid = Grid::over(Granularity::Hour, &Zone::utc(), 3_000, 7_300);
        assert_eq!(grid, Grid::Even { origin: 0, width: 3_600, count: 3 });
        let berlin = Grid::over(
            Granularity::Hour,
            &zone("Europe/Berlin"),
            at("2026-03-28T00:00:00Z"),
            at("2026-03-30T00:00:00Z"),
        );
        assert!(matches!(berlin, Grid::Even { width: 3_600, count: 48, .. }), "{berlin:?}");
    }

    #[test]
    fn ceil_leaves_edges_alone() {
        let utc = Zone::utc();
        assert_eq!(ceil(Granularity::Hour, &utc, 3_600), 3_600);
        assert_eq!(ceil(Granularity::Hour, &utc, 3_601), 7_200);
        assert_eq!(ceil(Granularity::Month, &utc, 1), 31 * 86_400);
    }

    #[test]
    fn every_instant_lies_in_exactly_one_bucket() {
        let (begin, end) = (at("2025-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
        for name in
            ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"]
        {
            let zone = zone(name);
            for granularity in Granularity::FINEST_FIRST {
                for instant in (begin..end).step_by(26_123) {
                    let start = floor(granularity, &zone, instant);
                    let after = next(granularity, &zone, start);
                    assert!(start <= instant && instant < after, "{name} {granularity:?} {instant}");
                    assert_eq!(floor(granularity, &zone, start), start, "{name} {granularity:?} {instant}");
                    assert_eq!(floor(granularity, &zone, after), after, "{name} {granularity:?} {instant}");
                    assert!(after - start >= granularity.least_seconds() / 2, "{name} {granularity:?} {instant}");
                }
            }
        }
    }
}
