//! The widths that the buckets of a series may have.

use serde::Serialize;

use super::{DAY, MINUTE};

/// The width of a bucket, finest first. Buckets follow the clock and the calendar of the query's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Granularity {
    #[serde(rename = "minute")]
    Minute,
    /// Five minutes.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// A quarter of an hour.
    #[serde(rename = "15m")]
    QuarterHour,
    /// Half an hour.
    #[serde(rename = "30m")]
    HalfHour,
    #[serde(rename = "hour")]
    Hour,
    /// A calendar day: 23 to 25 hours long.
    #[serde(rename = "day")]
    Day,
    /// Monday to Sunday.
    #[serde(rename = "week")]
    Week,
    /// A calendar month.
    #[serde(rename = "month")]
    Month,
}

impl Granularity {
    /// All of them, finest first.
    pub const FINEST_FIRST: [Self; 8] = [
        Self::Minute,
        Self::FiveMinutes,
        Self::QuarterHour,
        Self::HalfHour,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
    ];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::FiveMinutes => "5m",
            Self::QuarterHour => "15m",
            Self::HalfHour => "30m",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The granularity of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::FINEST_FIRST.into_iter().find(|granularity| granularity.name() == name)
    }

    /// Seconds of a bucket that follows the clock; `None` for those that follow the calendar.
    pub const fn clock_seconds(self) -> Option<i64> {
        match self {
            Self::Minute => Some(MINUTE),
            Self::FiveMinutes => Some(5 * MINUTE),
            Self::QuarterHour => Some(15 * MINUTE),
            Self::HalfHour => Some(30 * MINUTE),
            Self::Hour => Some(60 * MINUTE),
            Self::Day | Self::Week | Self::Month => None,
        }
    }

    /// The least seconds that a bucket lasts, for an estimate of how many there are.
    pub const fn least_seconds(self) -> i64 {
        match self {
            Self::Day => DAY - 3_600,
            Self::Week => 7 * DAY - 3_600,
            Self::Month => 28 * DAY - 3_600,
            Self::Minute | Self::FiveMinutes | Self::QuarterHour | Self::HalfHour | Self::Hour => {
                match self.clock_seconds() {
                    Some(seconds) => seconds,
                    None => MINUTE,
                }
            }
        }
    }
}
