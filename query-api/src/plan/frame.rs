//! A range and its buckets, and which rollup has them exactly.

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
            Window::Open { from } => (grid::floor(granularity, zone, from), open_end()),
            Window::Last { seconds } => {
                // A day of calendar days is yesterday and today; of clock buckets, as many as make a day.
                let end = if granularity.clock_seconds().is_some() { open_end() } else { now };
                (grid::floor(granularity, zone, end - seconds), open_end())
            }
        };
        Self { from, to, granularity, zone: zone.clone() }
    }

    /// The buckets.
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

/// The finest granularity that makes a readable chart and can be answered; if none can, why not the finest.
fn readable(window: Window, zone: &Zone, now_ms: i64) -> Result<(Frame, Rollup), Unplannable> {
    let mut refusal = None;
    for granularity in Granularity::FINEST_FIRST {
        let frame = Frame::of(window, granularity, zone, now_ms);
        if !frame.has_at_most(READABLE_POINTS) {
            continue;
        }
        match sourced(frame, now_ms) {
            Ok(found) => return Ok(found),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    let granularity = Granularity::Month;
    Err(refusal.unwrap_or(Unplannable::TooManyPoints { granularity, limit: READABLE_POINTS, fits: None }))
}

fn sourced(frame: Frame, now_ms: i64) -> Result<(Frame, Rollup), Unplannable> {
    let rollup = source::choose(frame.from, frame.to, &frame.grid(), &frame.zone, now_ms)?;
    Ok((frame, rollup))
}
