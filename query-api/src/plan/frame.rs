//! The frame of a plan: its range and buckets, and which rollup has them exactly.

use serde::Serialize;
use tallyhouse_schema::Rollup;

use super::error::Unplannable;
use super::source;
use crate::request::Window;
use crate::time::{Granularity, Grid, Zone, grid, minute_ceil};

/// Points that a granularity chosen for the caller makes at most.
pub const READABLE_POINTS: i64 = 1_440;

/// Points that are answered at most.
pub const MAX_POINTS: i64 = 11_000;

/// A range and its buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// First instant.
    pub from: i64,
    /// First instant that is not included.
    pub to: i64,
    /// The width of buckets.
    pub granularity: Granularity,
    /// Whose clocks they follow.
    pub zone: Zone,
}

impl Frame {
    fn of(window: Window, granularity: Granularity, zone: &Zone, now_ms: i64) -> Self {
        let now = minute_ceil(now_ms);
        let open_end = || grid::ceil(granularity, zone, now);
        let (from, to) = match window {
            Window::Closed { from, to } => (from, to),
            Window::Open { from, .. } => (grid::floor(granularity, zone, from), open_end()),
            Window::Last { seconds } => {
                // A day of calendar days is yesterday and today; of clock buckets, as many as make a day.
                let end = if granularity.clock_seconds().is_some() { open_end() } else { now };
                (grid::floor(granularity, zone, end - seconds), open_end())
            }
        };
        Self { from, to, granularity, zone: zone.clone() }
    }

    pub fn grid(&self) -> Grid {
        Grid::over(self.granularity, &self.zone, self.from, self.to)
    }

    /// No fewer than the number of buckets, without laying the grid.
    fn points_at_most(&self) -> i64 {
        (self.to - self.from) / self.granularity.least_seconds() + 2
    }

    fn has_at_most(&self, points: i64) -> bool {
        // The grid of a year of minutes is not laid just to learn that it is too long.
        let hopeless = points.saturating_mul(2).saturating_add(2);
        self.points_at_most() <= points
            || (self.points_at_most() <= hopeless && (self.grid().starts().len() as i64) <= points)
    }
}

/// The frame of a window: of the granularity asked for, or of the finest that makes a readable chart, and the rollup that
/// answers it.
pub fn choose(
    window: Window,
    granularity: Option<Granularity>,
    zone: &Zone,
    now_ms: i64,
) -> Result<(Frame, Rollup), Unplannable> {
    match granularity {
        Some(granularity) => sourced(asked_for(window, granularity, zone, now_ms)?, now_ms),
        None => readable(window, zone, now_ms),
    }
}

/// The frame of a granularity, unless it has too many points.
pub fn asked_for(window: Window, granularity: Granularity, zone: &Zone, now_ms: i64) -> Result<Frame, Unplannable> {
    let frame = Frame::of(window, granularity, zone, now_ms);
    if !frame.has_at_most(MAX_POINTS) {
        let fits = Granularity::FINEST_FIRST
            .into_iter()
            .find(|finer| Frame::of(window, *finer, zone, now_ms).has_at_most(MAX_POINTS));
        return Err(Unplannable::TooManyPoints { granularity, limit: MAX_POINTS, fits });
    }
    Ok(frame)
}

/// A question that leaves its granularity open.
#[derive(Debug, Clone, Copy)]
pub struct Open<'a> {
    pub window: Window,
    /// Whose clocks and calendar buckets follow.
    pub zone: &'a Zone,
    pub now_ms: i64,
    /// Whether raw events may be read where no rollup answers.
    pub raw: bool,
}

impl Open<'_> {
    /// The frame of the finest granularity that makes a readable chart and that a rollup answers; where none does and raw
    /// events may be read, the finest that makes a readable chart.
    pub fn frame(&self) -> Result<Frame, Unplannable> {
        match readable(self.window, self.zone, self.now_ms) {
            Ok((frame, _)) => Ok(frame),
            Err(_) if self.raw => finest(self, Ok),
            Err(refusal) => Err(refusal),
        }
    }

    /// The frames of the window and of the one `before` it, of one granularity: the finest that makes a readable chart of the
    /// window and with which both can be answered. What is compared is compared bucket by bucket, so each by itself would set
    /// an hour against a day where only one of them is too long, or too old, for hours.
    pub fn compared(&self, before: impl Fn(&Frame) -> Window) -> Result<(Frame, Frame), Unplannable> {
        let both = |frame: Frame| {
            let previous = asked_for(before(&frame), frame.granularity, self.zone, self.now_ms)?;
            Ok((frame, previous))
        };
        let of_rollups = |frame: Frame| {
            let (frame, previous) = both(sourced(frame, self.now_ms)?.0)?;
            Ok((frame, sourced(previous, self.now_ms)?.0))
        };
        match finest(self, of_rollups) {
            Err(_) if self.raw => finest(self, both),
            found => found,
        }
    }
}

/// The finest granularity that makes a readable chart and can be answered; if none can, why not the finest.
fn readable(window: Window, zone: &Zone, now_ms: i64) -> Result<(Frame, Rollup), Unplannable> {
    finest(&Open { window, zone, now_ms, raw: false }, |frame| sourced(frame, now_ms))
}

/// What is made of the finest frame that makes a readable chart and of which anything can be made; if of none, why not of the
/// finest.
fn finest<T>(open: &Open<'_>, make: impl Fn(Frame) -> Result<T, Unplannable>) -> Result<T, Unplannable> {
    let mut refusal = None;
    for granularity in Granularity::FINEST_FIRST {
        let frame = Frame::of(open.window, granularity, open.zone, open.now_ms);
        if !frame.has_at_most(READABLE_POINTS) {
            continue;
        }
        match make(frame) {
            Ok(found) => return Ok(found),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    let granularity = Granularity::Month;
    Err(refusal.unwrap_or(Unplannable::TooManyPoints { granularity, limit: READABLE_POINTS, fits: None }))
}

fn sourced(frame: Frame, now_ms: i64) -> Result<(Frame, Rollup), Unplannable> {
    let rollup = source::choose(frame.from, frame.to, &frame.grid(), now_ms)?;
    Ok((frame, rollup))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::DAY;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    const HOUR: i64 = 3_600;

    /// As long, right before.
    fn as_long(frame: &Frame) -> Window {
        Window::Closed { from: frame.from - (frame.to - frame.from), to: frame.from }
    }

    fn both_at(granularity: Granularity, window: Window, zone: &Zone) -> Option<(Frame, Frame)> {
        let frame = Frame::of(window, granularity, zone, NOW);
        let previous = Frame::of(as_long(&frame), granularity, zone, NOW);
        let is_answered = |frame: &Frame| sourced(frame.clone(), NOW).is_ok();
        let fit = frame.has_at_most(READABLE_POINTS) && previous.has_at_most(MAX_POINTS);
        (fit && is_answered(&frame) && is_answered(&previous)).then_some((frame, previous))
    }

    #[test]
    fn what_is_compared_has_one_granularity_the_finest_that_both_have() {
        let lengths = [1, 23, 24, 25, 24 * 7, 24 * 28, 24 * 59, 24 * 60, 24 * 61, 24 * 89, 24 * 180, 24 * 366];
        // Whole days, hours of the day, and minutes that are on no whole hour.
        let offsets = [0, 5 * HOUR, 17 * 60];
        for name in ["UTC", "Europe/Berlin", "Asia/Kolkata"] {
            let zone = Zone::named(name).unwrap();
            let midnight = zone.day_start(zone.date(NOW / 1_000));
            let ends = (0..40).map(|step| midnight - step * 9 * DAY);
            let closed = ends.flat_map(|end| {
                offsets.map(|offset| lengths.map(|hours| (end + offset - hours * HOUR, end + offset))).concat()
            });
            let closed = closed.map(|(from, to)| Window::Closed { from, to });
            let open = lengths.map(|hours| Window::Open { from: midnight - hours * HOUR, until: None });
            let last = lengths.map(|hours| Window::Last { seconds: hours * HOUR });
            for window in closed.chain(open).chain(last) {
                let expected = Granularity::FINEST_FIRST.into_iter().find_map(|each| both_at(each, window, &zone));
                let open = Open { window, zone: &zone, now_ms: NOW, raw: false };
                assert_eq!(open.compared(as_long).ok(), expected, "{name} {window:?}");
                // Raw events answer what rollups do not, and nothing else.
                let with_raw = Open { raw: true, ..open };
                let (frame, previous) = with_raw.compared(as_long).unwrap();
                assert_eq!(frame.granularity, previous.granularity, "{name} {window:?}");
                assert!(expected.is_none_or(|expected| expected == (frame, previous)), "{name} {window:?}");
                let alone = with_raw.frame().unwrap();
                assert!(alone.has_at_most(READABLE_POINTS), "{name} {window:?}");
                assert!(open.frame().is_ok_and(|frame| frame == alone) || open.frame().is_err(), "{name} {window:?}");
            }
        }
    }
}
