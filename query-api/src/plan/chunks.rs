//! Splits a series into chunks that other series share: aligned, so that a window that slides recomputes only its tail.
//!
//! ```text
//! range      |--------------------------------------|          now
//! cells   |-------|-------|-------|-------|-------|-------|    a day of clock buckets, a week of days
//! chunks  |=======|=======|=======|=======|=======|.......|    = closed: over, and known by the versions of its days
//! ```
//!
//! A chunk is a whole cell even where the range has a part of it, if that part ends between two buckets: the rest is
//! cut off afterwards ([`Cut::keeps`]). Buckets are disjoint, so joining chunks means putting them in order.
//! Readings without buckets and rankings of groups need the whole range, and are not split; nor are raw events, of which
//! a whole cell would cost too much.

use super::frame::Frame;
use super::read::{Read, Source};
use crate::time::{Granularity, grid};

const HOUR: i64 = 3_600;

/// Cells of one reading at most; beyond, it is read as a whole.
const MOST_CELLS: usize = 400;

/// A reading in chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The chunks, in order, without gaps between them.
    pub chunks: Vec<Chunk>,
    from: i64,
    to: i64,
}

/// A piece of a reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// What is read for it.
    pub read: Read,
    /// Whether its UTC hours are over: only late events can change it.
    pub is_closed: bool,
}

impl Chunk {
    /// All of a reading that is not cut; `now_s` is the present.
    pub fn whole(read: Read, now_s: i64) -> Self {
        let is_closed = is_over(read.to, now_s);
        Self { read, is_closed }
    }
}

/// Whether all UTC hours before an instant are over.
const fn is_over(to: i64, now_s: i64) -> bool {
    to <= now_s - now_s.rem_euclid(HOUR)
}

impl Cut {
    /// Whether a point of a chunk is in the range asked for; `at` is the start of its bucket.
    pub const fn keeps(&self, at: i64) -> bool {
        self.from <= at && at < self.to
    }
}

/// The chunks of a reading, or `None` when it is read as a whole; `now_s` is the present.
pub fn cut(read: &Read, now_s: i64) -> Option<Cut> {
    let is_cut = read.top.is_none() && read.source != Source::Raw;
    let frame = read.buckets.as_ref().filter(|_| is_cut)?;
    let starts_on_edge = grid::floor(frame.granularity, &frame.zone, frame.from) == frame.from;
    let ends_on_edge = grid::floor(frame.granularity, &frame.zone, frame.to) == frame.to;
    // A thousand groups make a whole cell many more rows than were asked for.
    let is_widened = read.by.is_empty();
    let mut chunks = Vec::new();
    let mut edge = cell_start(frame, frame.from);
    while edge < frame.to {
        let end = cell_end(frame, edge);
        let from = if is_widened && starts_on_edge && is_exact(read, edge) { edge } else { edge.max(frame.from) };
        // What is over is not widened into what is not: it is known by its versions, and the rest by its time only.
        let stays = !is_over(end.min(frame.to), now_s) || is_over(end, now_s);
        let to = if is_widened && ends_on_edge && stays && is_exact(read, end) { end } else { end.min(frame.to) };
        chunks.push(Chunk { read: part(read, frame, from, to), is_closed: is_over(to, now_s) });
        edge = end;
        if chunks.len() > MOST_CELLS {
            return None;
        }
    }
    // A bucket that is only partly asked for is read in that part alone, so its point starts before `from`.
    let from = if starts_on_edge { frame.from } else { i64::MIN };
    Some(Cut { chunks, from, to: frame.to })
}

fn part(read: &Read, frame: &Frame, from: i64, to: i64) -> Read {
    Read { from, to, buckets: Some(Frame { from, to, ..frame.clone() }), ..read.clone() }
}

/// Whether the table has a border there.
fn is_exact(read: &Read, edge: i64) -> bool {
    match &read.source {
        Source::Rollup { rollup, .. } => edge % rollup.bucket_seconds() == 0,
        Source::Raw => true,
    }
}

fn cell(granularity: Granularity) -> Granularity {
    match granularity {
        Granularity::Day => Granularity::Week,
        Granularity::Week => Granularity::Week,
        Granularity::Month => Granularity::Month,
        Granularity::Minute
        | Granularity::FiveMinutes
        | Granularity::QuarterHour
        | Granularity::HalfHour
        | Granularity::Hour => Granularity::Day,
    }
}

fn cell_start(frame: &Frame, at: i64) -> i64 {
    grid::floor(cell(frame.granularity), &frame.zone, at)
}

fn cell_end(frame: &Frame, edge: i64) -> i64 {
    grid::next(cell(frame.granularity), &frame.zone, edge)
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::{DimSet, Rollup};

    use super::*;
    use crate::condition::Condition;
    use crate::metric_definitions::Measure;
    use crate::time::Zone;

    /// 2026-11-20T12:34:56Z
    const NOW: i64 = 1_795_178_096;

    fn read(granularity: Granularity, zone: &str, from: &str, to: &str) -> Read {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_second();
        let (from, to, zone) = (at(from), at(to), Zone::named(zone).unwrap());
        Read {
            source: Source::Rollup { rollup: Rollup::Hour, set: DimSet::total() },
            condition: Condition::always(),
            from,
            to,
            buckets: Some(Frame { from, to, granularity, zone }),
            by: Vec::new(),
            measures: vec![Measure::Events],
            top: None,
        }
    }

    fn shown(read: &Read) -> Vec<(String, bool)> {
        let show = |at| Zone::utc().rfc3339(at).replace(":00:00Z", "");
        let cut = cut(read, NOW).unwrap();
        cut.chunks.iter().map(|c| (format!("{} {}", show(c.read.from), show(c.read.to)), c.is_closed)).collect()
    }

    #[test]
    fn windows_that_slide_share_all_but_their_tail() {
        let now = read(Granularity::Hour, "UTC", "2026-11-18T13:00:00Z", "2026-11-20T13:00:00Z");
        let later = read(Granularity::Hour, "UTC", "2026-11-18T14:00:00Z", "2026-11-20T14:00:00Z");
        assert_eq!(
            shown(&now),
            [
                ("2026-11-18T00 2026-11-19T00".to_owned(), true),
                ("2026-11-19T00 2026-11-20T00".to_owned(), true),
                ("2026-11-20T00 2026-11-21T00".to_owned(), false)
            ]
        );
        assert_eq!(shown(&now), shown(&later));
        assert_eq!(cut(&now, NOW).unwrap().chunks, cut(&later, NOW).unwrap().chunks);
        let cut = cut(&now, NOW).unwrap();
        assert!(!cut.keeps(now.from - 3_600) && cut.keeps(now.from) && !cut.keeps(now.to));
    }

    #[test]
    fn hours_of_today_that_are_over_are_a_chunk_of_their_own() {
        let today = read(Granularity::Hour, "UTC", "2026-11-20T08:00:00Z", "2026-11-20T12:00:00Z");
        assert_eq!(shown(&today), [("2026-11-20T00 2026-11-20T12".to_owned(), true)]);
        let open = read(Granularity::Hour, "UTC", "2026-11-20T08:00:00Z", "2026-11-20T13:00:00Z");
        assert_eq!(shown(&open), [("2026-11-20T00 2026-11-21T00".to_owned(), false)]);
    }

    #[test]
    fn a_range_that_begins_within_a_bucket_is_read_as_it_is() {
        let odd = read(Granularity::Day, "UTC", "2026-11-11T06:00:00Z", "2026-11-18T00:00:00Z");
        let chunks = shown(&odd);
        assert_eq!(chunks[0].0, "2026-11-11T06 2026-11-16T00");
        // The week is not over, the range is.
        assert_eq!(chunks[1], ("2026-11-16T00 2026-11-18T00".to_owned(), true));
        assert!(cut(&odd, NOW).unwrap().keeps(odd.from - 6 * 3_600), "the first bucket starts before the range");
    }

    #[test]
    fn cells_follow_the_calendar_of_the_zone() {
        let days = read(Granularity::Hour, "America/New_York", "2026-10-31T04:00:00Z", "2026-11-03T05:00:00Z");
        let lengths: Vec<_> =
            cut(&days, NOW).unwrap().chunks.iter().map(|c| (c.read.to - c.read.from) / 3_600).collect();
        assert_eq!(lengths, [24, 25, 24]);
        // Midnight in Kolkata is no border of the hourly rollup: such cells are not widened.
        let kolkata = read(Granularity::Hour, "Asia/Kolkata", "2026-11-17T18:30:00Z", "2026-11-18T20:30:00Z");
        assert_eq!(cut(&kolkata, NOW).unwrap().chunks.last().unwrap().read.to, kolkata.to);
    }

    #[test]
    fn what_is_about_the_whole_range_is_not_cut() {
        let series = read(Granularity::Hour, "UTC", "2026-11-18T13:00:00Z", "2026-11-20T13:00:00Z");
        assert_eq!(cut(&Read { top: Some(3), ..series.clone() }, NOW), None);
        assert_eq!(cut(&Read { buckets: None, ..series.clone() }, NOW), None);
        assert_eq!(cut(&Read { source: Source::Raw, ..series.clone() }, NOW), None);
        let grouped = Read { by: vec![crate::condition::Field::named("country")], ..series.clone() };
        let ends = cut(&grouped, NOW).map(|cut| (cut.chunks[0].read.from, cut.chunks.last().unwrap().read.to));
        assert_eq!(ends, Some((series.from, series.to)), "groups are not read beyond the range");
        let years = read(Granularity::Hour, "UTC", "2024-11-18T13:00:00Z", "2026-11-20T13:00:00Z");
        assert_eq!(cut(&years, NOW), None);
    }

    #[test]
    fn chunks_follow_each_other_and_cover_the_range() {
        for zone in ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "America/St_Johns"] {
            for granularity in [Granularity::Hour, Granularity::Day, Granularity::Week, Granularity::Month] {
                for hours in (1..2_000).step_by(37) {
                    let mut read = read(granularity, zone, "2026-03-01T00:00:00Z", "2026-11-20T13:00:00Z");
                    read.from = read.to - hours * 3_600;
                    read.buckets.as_mut().unwrap().from = read.from;
                    let chunks = cut(&read, NOW).unwrap().chunks;
                    assert!(chunks[0].read.from <= read.from && chunks.last().unwrap().read.to >= read.to);
                    for pair in chunks.windows(2) {
                        assert_eq!(pair[0].read.to, pair[1].read.from, "{zone} {granularity:?} {hours}");
                    }
                }
            }
        }
    }
}
