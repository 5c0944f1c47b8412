//! The `meta` of an answer: one form for all kinds, in three parts.
//!
//! ```text
//! when it is computed  [`About`], and the fields of its own kind           source range approx errors overflowed newest_event …
//! when it was read     [`Work`]                                            rows_read bytes_read
//! for each reader      [`Ending`]                                          cache elapsed_ms
//! ```

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cache::{CacheStatus, Entry};
use crate::metric_definitions::Measure;
use crate::plan::newest::{Newest, Precision};
use crate::plan::read::Source;
use crate::store::Cost;
use crate::time::{Zone, rfc3339};
use crate::warning::Warning;

/// What is told of an answer, not written yet.
#[derive(Debug, Clone)]
pub struct About<'a> {
    /// The tables that were read, each once.
    pub tables: Vec<&'static str>,
    /// Whose clocks show the range.
    pub zone: &'a Zone,
    /// Its first second.
    pub from: i64,
    /// The first second after it.
    pub to: i64,
    /// When the newest event counted happened; `None` when nothing happened.
    pub newest: Option<Newest>,
    /// What is estimated: the metric or the field, and how far it may be off. Everything else is exact.
    pub errors: Vec<(String, Error)>,
    /// Dimensions of the question of which some values are counted as `__other__`: they had too many within an hour.
    pub overflowed: Vec<String>,
    /// When it was computed, in seconds.
    pub generated_s: i64,
}

/// What is looked up beside the points of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LookedUp {
    /// Dimensions of which some values are counted as `__other__`.
    pub overflowed: Vec<String>,
    /// The newest event counted.
    pub newest: Option<Newest>,
}

/// How far an estimate may be off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Error {
    /// What `relative` and `absolute` are.
    pub kind: ErrorKind,
    /// As a part of the true value; `null` where no bound can be given, because the true value or a divisor may be 0.
    pub relative: Option<f64>,
    /// In the unit of the metric; of formulas, as long as a bound can be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absolute: Option<f64>,
    /// How many percentage points a `change_percent` may be off, where there is one; `null` where no bound can be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_percent: Option<Option<f64>>,
}

/// What an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No estimate is further off.
    Bound,
    /// One standard error: about two thirds of all estimates are nearer, 95 % are within twice as far. Of a formula: how far
    /// it is off at most while each estimate in it is within its own standard error or bound.
    Standard,
}

impl Error {
    /// Of a measure, as this table estimates it. `HyperLogLog`'s standard error follows from its 2^precision cells;
    /// `DDSketch` has a bound.
    pub fn of(measure: Measure, source: &Source) -> Option<Self> {
        match measure {
            Measure::Users => Some(Self::of_users(source.users_precision())),
            Measure::ValueQuantile(_) => Some(Self::relative(ErrorKind::Bound, 0.01)),
            Measure::Events | Measure::ValueSum | Measure::ValueAvg | Measure::ValueMin | Measure::ValueMax => None,
        }
    }

    /// Of users that are counted with this precision.
    pub fn of_users(precision: u8) -> Self {
        let cells = f64::from(1_u32 << precision);
        Self::relative(ErrorKind::Standard, (1.04 / cells.sqrt() * 1e4).round() / 1e4)
    }

    const fn relative(kind: ErrorKind, relative: f64) -> Self {
        Self { kind, relative: Some(relative), absolute: None, change_percent: None }
    }
}

/// A range, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Range {
    from: String,
    to: String,
}

impl Range {
    /// From one second to before the other.
    pub fn of(zone: &Zone, from: i64, to: i64) -> Self {
        Self { from: zone.rfc3339(from), to: zone.rfc3339(to) }
    }
}

/// The first part, written.
#[derive(Serialize)]
pub(super) struct Meta<'a, Own: Serialize> {
    source: String,
    range: Range,
    approx: bool,
    errors: BTreeMap<&'a str, Error>,
    overflowed: &'a [String],
    newest_event: Option<String>,
    newest_event_precision: Option<Precision>,
    #[serde(flatten)]
    own: &'a Own,
    generated_at: String,
}

impl<'a, Own: Serialize> Meta<'a, Own> {
    pub(super) fn of(about: &'a About<'_>, own: &'a Own) -> Self {
        let utc = Zone::utc();
        Self {
            source: about.tables.join(","),
            range: Range::of(about.zone, about.from, about.to),
            approx: !about.errors.is_empty(),
            errors: about.errors.iter().map(|(name, error)| (name.as_str(), *error)).collect(),
            overflowed: &about.overflowed,
            newest_event: about.newest.map(|newest| instant(&newest)),
            newest_event_precision: about.newest.map(|newest| newest.precision),
            own,
            generated_at: utc.rfc3339(about.generated_s),
        }
    }
}

/// In UTC, with milliseconds where they are known.
fn instant(newest: &Newest) -> String {
    let ms = (newest.precision == Precision::Millisecond).then(|| newest.at_ms.rem_euclid(1_000)).filter(|ms| *ms != 0);
    String::from_utf8(rfc3339::text(newest.at_ms.div_euclid(1_000), ms, None)).unwrap_or_default()
}

/// What ClickHouse did for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Work {
    rows_read: u64,
    bytes_read: u64,
    /// A shard of the cluster did not answer: what it holds is missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

impl From<&Cost> for Work {
    fn from(cost: &Cost) -> Self {
        Self { rows_read: cost.rows_read, bytes_read: cost.bytes_read, partial: cost.is_partial }
    }
}

/// What differs from one reader to the next.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ending {
    #[serde(rename = "fromCache", skip_serializing_if = "std::ops::Not::not")]
    from_cache: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
    cache: OfCache,
    elapsed_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct OfCache {
    status: &'static str,
    age_s: i64,
    ttl_s: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_reason: Option<&'static str>,
}

impl Ending {
    /// For a reader at `now_ms` who has waited for so long.
    pub fn of(entry: &Entry, status: CacheStatus, now_ms: i64, elapsed_ms: f64) -> Self {
        let stale_reason = match status {
            CacheStatus::Stale(reason) => Some(reason.label()),
            CacheStatus::Hit | CacheStatus::Miss | CacheStatus::Coalesced => None,
        };
        let (age_s, ttl_s) = (entry.age_s(now_ms), entry.remaining_s(now_ms));
        let cache = OfCache { status: status.label(), age_s, ttl_s, stale_reason };
        Self { from_cache: false, warnings: Vec::new(), cache, elapsed_ms: rounded(elapsed_ms) }
    }

    /// What the reader should know of the question.
    #[must_use]
    pub fn with_warnings(self, warnings: Vec<Warning>) -> Self {
        Self { warnings, ..self }
    }

    /// The reader asked for a fresh answer, and this is a remembered one.
    #[must_use]
    pub fn from_cache(self) -> Self {
        Self { from_cache: true, ..self }
    }

    /// The answer could not be had anew, for this reason.
    #[must_use]
    pub fn stale(mut self, reason: &'static str) -> Self {
        self.cache = OfCache { status: "STALE", stale_reason: Some(reason), ..self.cache };
        self
    }
}

/// Milliseconds, to the microsecond.
pub fn rounded(elapsed_ms: f64) -> f64 {
    (elapsed_ms * 1e3).round() / 1e3
}
