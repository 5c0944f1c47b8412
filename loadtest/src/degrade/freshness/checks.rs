//! The queries, and the check that an answer is as fresh as promised.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::time::Instant;

use super::raw::Samples;
use crate::degrade::DegradeError;
use tallyhouse_service::http_client::Reply;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// What is over shows a change within a second.
const OVER: Duration = Duration::from_secs(1);

/// A raw event may show a little later than its rollups, of one insert.
const APART: Duration = Duration::from_secs(1);

/// Wrong answers that are told in full.
const TOLD: usize = 20;

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Days that are over.
    Days { from: i64, to: i64 },
    /// Hours that are over, of today too.
    Hours { from: i64, to: i64 },
    /// The last 24 hours.
    Now,
    /// From a midnight of UTC until now.
    Since { from: i64 },
}

impl Question {
    /// Any, at this second. Few different ones, so that answers are remembered.
    pub(super) fn any(random: &mut StdRng, now: i64) -> Self {
        let (today, hour) = (now - now.rem_euclid(DAY), now - now.rem_euclid(HOUR));
        match random.random_range(0..6) {
            0 | 1 => {
                let from = today - random.random_range(2..8) * DAY;
                Self::Days { from, to: from + random.random_range(1..3) * DAY }
            }
            2 | 3 => {
                let to = hour - random.random_range(0..4) * HOUR;
                Self::Hours { from: to - random.random_range(1..4) * 6 * HOUR, to }
            }
            4 => Self::Now,
            _ => Self::Since { from: today - random.random_range(0..4) * DAY },
        }
    }

    pub(super) fn path(self) -> String {
        let series = "/v1/metrics/events?eventType=late";
        match self {
            Self::Days { from, to } => format!("{series}&granularity=day&startTime={from}000&endTime={to}000"),
            Self::Hours { from, to } => format!("{series}&granularity=hour&startTime={from}000&endTime={to}000"),
            Self::Now => format!("{series}&granularity=hour"),
            Self::Since { from } => format!("{series}&granularity=hour&startTime={from}000"),
        }
    }

    const fn is_over(self) -> bool {
        matches!(self, Self::Days { .. } | Self::Hours { .. })
    }
}

#[derive(Debug, Clone)]
pub(super) struct Asked {
    question: Question,
    pub(super) sent: Instant,
    came: Instant,
    /// `X-Cache`, or the status of what is no answer.
    cache: String,
    /// Events that it counts and the range that it says it is about; nothing of what is no answer.
    counted: Option<(u64, i64, i64)>,
}

impl Asked {
    pub(super) fn of(question: Question, sent: Instant, reply: &Reply) -> Result<Self, DegradeError> {
        let came = Instant::now();
        if !reply.status.is_success() {
            return Ok(Self { question, sent, came, cache: reply.status.as_u16().to_string(), counted: None });
        }
        let odd = || DegradeError::Worthless(format!("not an answer: {}", reply.excerpt()));
        let body: Value = serde_json::from_slice(&reply.body).map_err(|_| odd())?;
        let points = body.get("data").and_then(Value::as_array).ok_or_else(odd)?;
        let events: f64 = points.iter().filter_map(|point| point.get("value")?.as_f64()).sum();
        let end = |name: &str| {
            let text = body.pointer(&format!("/meta/range/{name}")).and_then(Value::as_str)?;
            Some(text.parse::<Timestamp>().ok()?.as_second())
        };
        let (from, to) = end("from").zip(end("to")).ok_or_else(odd)?;
        let cache = reply.headers.get("x-cache").and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(Self { question, sent, came, cache: cache.to_owned(), counted: Some((events as u64, from, to)) })
    }
}

/// How old answers may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// An answer that reaches until now, or that nobody vouches for.
    pub(super) ttl: Duration,
    /// What is added to all.
    pub(super) slack: Duration,
}

/// What answers came to.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// How many were compared.
    pub answers: u64,
    /// How many of them were remembered ones.
    pub hits: u64,
    /// Errors, and answers that say that they are stale.
    pub others: u64,
    /// Those that were wrong.
    pub wrong: Vec<String>,
}

impl Judged {
    pub(super) fn merge(&mut self, other: &Self) {
        self.answers += other.answers;
        self.hits += other.hits;
        self.others += other.others;
        self.wrong.extend(other.wrong.iter().cloned());
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, hits, others, wrong } = self;
        write!(f, "{answers} answers, {hits} of them HIT, {others} others, {} wrong", wrong.len())?;
        wrong.iter().take(TOLD).try_for_each(|wrong| write!(f, "\n    {wrong}"))
    }
}

impl Bounds {
    /// Compares each answer with raw events; Redis is healthy from that moment on.
    pub(super) fn judge<'a>(
        &self,
        asked: impl Iterator<Item = &'a Asked>,
        healthy_from: Instant,
        samples: &Samples,
    ) -> Judged {
        let mut judged = Judged::default();
        for one in asked {
            let counted = one.counted.filter(|_| one.cache != "STALE");
            let Some((events, from, to)) = counted else {
                judged.others += 1;
                continue;
            };
            let is_vouched_for = one.sent >= healthy_from;
            let bound = if one.question.is_over() && is_vouched_for { OVER } else { self.ttl.max(OVER) } + self.slack;
            let least = one.sent.checked_sub(bound).map_or(0, |at| samples.at_least(at, from, to));
            let most = samples.at_most(one.came + APART, from, to);
            judged.answers += 1;
            judged.hits += u64::from(one.cache == "HIT");
            if events < least || most.is_some_and(|most| events > most) {
                let Asked { question, cache, .. } = one;
                judged
                    .wrong
                    .push(format!("{question:?} {cache}: {events}, between {least} of {bound:?} ago and {most:?}"));
            }
        }
        judged
    }
}
