//! Precision and recall, by bucket and by event.

use super::shape::Labelled;

/// Buckets that an alarm may be early or late, and a hole in it.
const TOLERANCE: usize = 1;

/// What was right and wrong.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Score {
    right: usize,
    false_alarms: usize,
    missed: usize,
    alarms: usize,
    right_alarms: usize,
    events: usize,
    found_events: usize,
    clean: usize,
}

impl Score {
    pub(super) fn of(labelled: &Labelled, flagged: &[bool]) -> Self {
        let mut score = Self { events: labelled.events.len(), ..Self::default() };
        let is_in = |ranges: &[std::ops::Range<usize>], place| ranges.iter().any(|range| range.contains(&place));
        for (place, flagged) in flagged.iter().enumerate().filter(|(place, _)| !is_in(&labelled.unclear, *place)) {
            match (flagged, is_in(&labelled.events, place)) {
                (true, true) => score.right += 1,
                (true, false) => score.false_alarms += 1,
                (false, true) => score.missed += 1,
                (false, false) => {}
            }
            score.clean += usize::from(!is_in(&labelled.events, place));
        }
        let touches = |event: &std::ops::Range<usize>| {
            let near = event.start.saturating_sub(TOLERANCE)..(event.end + TOLERANCE).min(flagged.len());
            flagged[near].contains(&true)
        };
        score.found_events = labelled.events.iter().filter(|event| touches(event)).count();
        for alarm in alarms(flagged) {
            let near = alarm.start.saturating_sub(TOLERANCE)..alarm.end + TOLERANCE;
            let meets = |range: &&std::ops::Range<usize>| range.start < near.end && near.start < range.end;
            let is_right = labelled.events.iter().any(|event| meets(&event));
            // Where nobody can say, an alarm is neither.
            let is_unclear = !is_right && labelled.unclear.iter().any(|range| meets(&range));
            score.alarms += usize::from(!is_unclear);
            score.right_alarms += usize::from(is_right);
        }
        score
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            right: self.right + other.right,
            false_alarms: self.false_alarms + other.false_alarms,
            missed: self.missed + other.missed,
            alarms: self.alarms + other.alarms,
            right_alarms: self.right_alarms + other.right_alarms,
            events: self.events + other.events,
            found_events: self.found_events + other.found_events,
            clean: self.clean + other.clean,
        }
    }

    /// Of what was flagged, how much was right, by event and by bucket. Of nothing, all.
    pub(super) fn precision(&self) -> (f64, f64) {
        (share(self.right_alarms, self.alarms), share(self.right, self.right + self.false_alarms))
    }

    /// Of what was there, how much was flagged, by event and by bucket.
    pub(super) fn recall(&self) -> (f64, f64) {
        (share(self.found_events, self.events), share(self.right, self.right + self.missed))
    }

    /// Flagged buckets of a thousand that are not to be flagged.
    pub(super) fn false_alarms(&self) -> f64 {
        1_000.0 * self.false_alarms as f64 / self.clean.max(1) as f64
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// Runs of flagged buckets.
fn alarms(flagged: &[bool]) -> Vec<std::ops::Range<usize>> {
    let mut alarms: Vec<std::ops::Range<usize>> = Vec::new();
    for (place, _) in flagged.iter().enumerate().filter(|(_, flagged)| **flagged) {
        match alarms.last_mut().filter(|alarm| place <= alarm.end + TOLERANCE) {
            Some(alarm) => alarm.end = place + 1,
            None => alarms.push(place..place + 1),
        }
    }
    alarms
}

/// A line of a table.
pub(super) fn line(name: &str, score: &Score) -> String {
    let ((precision, by_bucket), (recall, recall_by_bucket)) = (score.precision(), score.recall());
    format!(
        "| {name} | {precision:.2} / {recall:.2} | {by_bucket:.2} / {recall_by_bucket:.2} | {:.2} |",
        score.false_alarms()
    )
}
