//! Errors of a request that are found without looking at data.

/// A request that is not understood. Each names the parameter and what would do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadRequest {
    /// The query string is longer than is read.
    #[error("the query string has {bytes} bytes, at most {limit} are read")]
    QueryTooLong {
        bytes: usize,
        /// The longest that is read.
        limit: usize,
    },
    /// The body is longer than is read.
    #[error("the body has {bytes} bytes, at most {limit} are read")]
    BodyTooLong {
        bytes: usize,
        /// The longest that is read.
        limit: usize,
    },
    /// The body is no JSON document.
    #[error("the body is not JSON: {problem}")]
    NotJson {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A field of the body.
    #[error("{}{problem}{}", at(path), did_you_mean(near))]
    BadField {
        /// The path to it, such as `filters[0][1]`; empty for the whole body.
        path: String,
        /// What is wrong with it.
        problem: String,
        /// Names that may have been meant.
        near: Vec<String>,
    },
    /// No parameter of that name.
    #[error("`{name}` is not a parameter here{}", did_you_mean(near))]
    UnknownParameter {
        /// As given.
        name: String,
        /// Names that it may have been meant to be.
        near: Vec<String>,
        /// All names.
        known: &'static [&'static str],
    },
    /// A parameter that may be given once.
    #[error("`{parameter}` is given more than once")]
    Twice {
        /// As in the query string.
        parameter: &'static str,
    },
    /// A value that cannot be what the parameter holds.
    #[error("`{parameter}`: `{given}` is not {expected}")]
    Malformed {
        /// As in the query string.
        parameter: &'static str,
        /// The value, cut to what a message repeats.
        given: String,
        /// What would do.
        expected: String,
    },
    /// No metric of that name.
    #[error("there is no metric `{name}`{}", did_you_mean(near))]
    UnknownMetric {
        /// As given, shortened.
        name: String,
        /// Metrics that it may have been meant to be.
        near: Vec<String>,
        /// All metrics.
        known: Vec<String>,
    },
    /// No time zone of that name.
    #[error("`timezone`: `{name}` is not an IANA time zone{}", did_you_mean(near))]
    UnknownZone {
        /// As given, shortened.
        name: String,
        /// Zones that it may have been meant to be.
        near: Vec<String>,
    },
    /// A time that is not read.
    #[error("`{parameter}`: `{given}`: {problem}")]
    BadTime {
        /// As in the query string.
        parameter: &'static str,
        /// The value, cut to what a message repeats.
        given: String,
        /// What is wrong with it.
        problem: tallyhouse_schema::time::NotATime,
    },
    /// A range that holds nothing.
    #[error("`{parameter}`: {problem}")]
    BadRange {
        /// The bound that is wrong.
        parameter: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// More than a year.
    #[error(
        "the range spans {days} days, at most {limit} are answered at once: with this endTime, startTime may be {earliest} \
         or later"
    )]
    RangeTooLong {
        days: i64,
        limit: i64,
        /// The earliest start that fits.
        earliest: String,
    },
    /// A parameter that says otherwise than the metric's name.
    #[error("`{parameter}`: the metric `{metric}` is always about {fixed}; leave it out, or ask for `{instead}`")]
    Contradiction {
        parameter: &'static str,
        metric: &'static str,
        /// What the metric fixes.
        fixed: String,
        /// The metric that leaves it open.
        instead: &'static str,
    },
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("`{path}`: ") }
}

/// At most this much of what was sent is quoted back.
const QUOTED_CHARS: usize = 64;

/// What was sent, short enough to quote.
pub fn quoted(text: &str) -> String {
    let mut short: String =
        text.chars().take(QUOTED_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(QUOTED_CHARS).is_some() {
        short.push('…');
    }
    short
}

/// `; did you mean …?`, or nothing.
pub fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}
