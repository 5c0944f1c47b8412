//! Questions that are valid and that no rollup answers.

use crate::request::error::did_you_mean;
use crate::time::Granularity;

/// Why there is no plan, and what there would be one for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplannable {
    /// No event type has such a dimension.
    #[error("there is no dimension `{name}`{}", did_you_mean(near))]
    UnknownDimension {
        /// As given, shortened.
        name: String,
        /// Dimensions that it may have been meant to be.
        near: Vec<String>,
        /// All dimensions.
        known: Vec<String>,
    },
    /// The dimensions exist, but are not rolled up together for these events.
    #[error("{} not rolled up by {asked}; kept: {}{}", subject(event_type), kept.join("; "), others(types))]
    NotRolledUp {
        /// The combination that the question needs.
        asked: String,
        /// The event type, or `None` for all.
        event_type: Option<String>,
        /// The combinations there are.
        kept: Vec<String>,
        /// Event types that have the combination asked for.
        types: Vec<String>,
    },
    /// Only minutes would be exact, and those are gone.
    #[error(
        "this needs 1-minute rollups, which are kept for {kept_days} days: ask for{} buckets of a quarter of an hour or more \
         with a start and an end on whole quarters",
        from(earliest, ", or for")
    )]
    TooFineForItsAge {
        /// How long they are kept.
        kept_days: i64,
        /// The start of the first day that is answered.
        earliest: Option<String>,
    },
    /// Nothing is kept that long.
    #[error("rollups are kept for {kept_days} days: ask for{}", from(earliest, ""))]
    Expired {
        /// How long they are kept.
        kept_days: i64,
        /// The start of the first day that is answered.
        earliest: Option<String>,
    },
    /// More points than anybody reads.
    #[error(
        "{} buckets over this range are more than {limit} points: ask for a shorter range{}",
        granularity.name(), or_coarser(*fits)
    )]
    TooManyPoints {
        /// As asked.
        granularity: Granularity,
        limit: i64,
        /// The finest that would fit.
        fits: Option<Granularity>,
    },
}

fn from(earliest: &Option<String>, rest: &str) -> String {
    match earliest {
        Some(start) => format!(" a start of {start} or later{rest}"),
        None if rest.is_empty() => " a shorter range that begins later".to_owned(),
        None => String::new(),
    }
}

fn subject(event_type: &Option<String>) -> String {
    match event_type {
        Some(name) => format!("`{name}` events are"),
        None => "all events together (no eventType given) are".to_owned(),
    }
}

fn others(types: &[String]) -> String {
    if types.is_empty() { String::new() } else { format!(" (kept for eventType {})", types.join(", ")) }
}

fn or_coarser(fits: Option<Granularity>) -> String {
    fits.map_or_else(String::new, |granularity| format!(" or granularity={}", granularity.name()))
}
