//! Shifts the departures of 2013 to the time of the feed. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::flight::{self, Flight};

/// A cycle of the data set, which holds one year.
const YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);

/// How flights are moved in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeShift {
    /// All by the same whole minutes, so that the last one leaves in the minute of `until`: what `truth.py` computes.
    Shifted {
        /// When the last flight leaves.
        until: Timestamp,
    },
    /// Each by whole years of 365 days, to the year before `until`. A flight lands where it shifted before, however much later the
    /// next feed is, and only flights after `fed` are sent: nothing is counted twice.
    Yearly {
        /// The present.
        until: Timestamp,
        /// The newest flight that was fed before.
        fed: Option<Timestamp>,
    },
}

impl TimeShift {
    /// When the last flight leaves at the latest.
    pub const fn until(self) -> Timestamp {
        match self {
            Self::Shifted { until } | Self::Yearly { until, .. } => until,
        }
    }

    /// When each flight leaves; `None` for those that were fed before.
    pub fn of(self, flights: &[Flight]) -> Vec<Option<Timestamp>> {
        match self {
            Self::Shifted { until } => {
                let shift = flight::shift_to(flights, until);
                flights.iter().map(|flight| flight.scheduled().saturating_add(shift).ok()).collect()
            }
            Self::Yearly { until, fed } => {
                let is_new = |at: &Timestamp| fed.is_none_or(|fed| *at > fed);
                flights.iter().map(|flight| in_the_year_before(flight.scheduled(), until).filter(is_new)).collect()
            }
        }
    }
}

/// The latest time of whole years after `scheduled` that is not after `until`.
fn in_the_year_before(scheduled: Timestamp, until: Timestamp) -> Option<Timestamp> {
    let years = until.duration_since(scheduled).as_secs().div_euclid(YEAR.as_secs());
    scheduled.checked_add(YEAR.checked_mul(i32::try_from(years).ok()?)?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::flight::tests::flights;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_flight_lands_where_it_landed_at_the_feed_before() {
        let flights = flights();
        let day = SignedDuration::from_hours(24);
        let mut until = at("2026-11-27T16:00:00Z");
        let mut sent = BTreeSet::new();
        let mut fed = None;
        for feed in 0..800 {
            let departures = TimeShift::Yearly { until, fed }.of(&flights);
            for (row, departure) in
                departures.into_iter().enumerate().filter_map(|(row, departure)| Some((row, departure?)))
            {
                assert!(departure <= until && departure > until - YEAR, "feed {feed}");
                assert!(sent.insert((row, departure)), "flight {row} was sent twice at {departure}");
                fed = fed.max(Some(departure));
            }
            until += day;
        }
        // Each flight once a year, in 799 days after the first year.
        assert!((3 * flights.len()..=4 * flights.len()).contains(&sent.len()), "{}", sent.len());
    }

    #[test]
    fn shifted_flights_keep_their_distances() {
        let flights = flights();
        let shifted = TimeShift::Shifted { until: at("2026-03-01T12:34:56Z") }.of(&flights);
        let expected = flights[1].scheduled().duration_since(flights[0].scheduled());
        assert_eq!(shifted[1].unwrap().to_string(), "2026-03-01T12:34:00Z");
        assert_eq!(shifted[1].unwrap().duration_since(shifted[0].unwrap()), expected);
    }
}
