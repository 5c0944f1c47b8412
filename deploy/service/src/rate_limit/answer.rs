//! What an answer says of limits.
//!
//! ```text
//! X-RateLimit-Scope      which limit: address, admin, queries or events
//! X-RateLimit-Limit      what may be done in its period
//! X-RateLimit-Remaining  what may be done now
//! X-RateLimit-Reset      seconds until the bucket is full again
//! Retry-After            seconds, of what was refused
//! ```
//!
//! Times are seconds from now, not instants: no two clocks have to agree.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::rule::{Kind, Rule};
use crate::http::Problem;

const SCOPE: HeaderName = HeaderName::from_static("x-ratelimit-scope");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Nobody is asked to wait longer: limits may have been raised by then. Of a day's limit everything fits within a day.
const LONGEST: u64 = 86_400;

/// How a caller stands with a limit. In the extensions of a response: the last word on what its headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub kind: Kind,
    pub limit: u64,
    pub remaining: u64,
    pub reset_s: u64,
}

impl Standing {
    pub(super) fn new(kind: Kind, rule: &Rule, remaining: u64) -> Self {
        let missing = rule.burst.saturating_sub(remaining);
        let reset_s = rule.time_of(missing as f64).as_secs_f64().ceil() as u64;
        Self { kind, limit: rule.amount, remaining: remaining.min(rule.burst), reset_s }
    }

    /// Writes the headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(SCOPE, HeaderValue::from_static(self.kind.name()));
        headers.insert(LIMIT, self.limit.into());
        headers.insert(REMAINING, self.remaining.into());
        headers.insert(RESET, self.reset_s.into());
    }
}

/// Seconds to wait, at least one.
pub(super) fn seconds(wait: Duration) -> u32 {
    u32::try_from((wait.as_secs_f64().ceil() as u64).clamp(1, LONGEST)).unwrap_or(1)
}

/// A request that is not answered, because too many came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub standing: Standing,
    pub retry_after_s: u32,
    /// The service is under stress, and others have priority.
    pub is_stress: bool,
}

impl Refused {
    /// What to do about it.
    pub fn message(&self) -> String {
        let limit = self.standing.limit;
        let (what, instead) = match (self.standing.kind, self.is_stress) {
            (_, true) => {
                return "the service is nearly full, and other projects have priority; send it again after `Retry-After`"
                    .to_owned();
            }
            (Kind::Address, false) => (
                format!("this address has sent more than {limit} requests a minute"),
                ", and more events in each request",
            ),
            (Kind::Admin, false) => {
                (format!("this address has sent more than {limit} administrative requests a minute"), "")
            }
            (Kind::Queries, false) => {
                (format!("more than {limit} questions a minute were asked with these credentials"), "")
            }
            (Kind::Events, false) => (format!("this key has sent more than its {limit} events a day"), ""),
        };
        format!("{what}; send it again after `Retry-After`{instead}")
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", refused.message()).retry_after(refused.retry_after_s)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = Problem::from(self).into_response();
        response.extensions_mut().insert(self.standing);
        response
    }
}

/// Writes the headers of an answer: of the limit that the handler asked last, else of `standing`. What was refused in part says when the
/// rest may come.
pub fn complete(response: &mut Response, standing: Option<Standing>) {
    if let Some(standing) = response.extensions().get::<Standing>().copied().or(standing) {
        standing.write(response.headers_mut());
    }
    if let Some(RetryAfter(seconds)) = response.extensions().get::<RetryAfter>().copied() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
}

/// In the extensions of a response that took a part: seconds until the rest may come.
#[derive(Debug, Clone, Copy)]
pub struct RetryAfter(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_is_left_and_when_it_is_full_again() {
        let standing = Standing::new(Kind::Address, &Rule::per_minute(1_000), 900);
        let mut response = Response::new(axum::body::Body::empty());
        complete(&mut response, Some(standing));
        let of = |name: &str| response.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(of("x-ratelimit-scope"), "address");
        assert_eq!((of("x-ratelimit-limit"), of("x-ratelimit-remaining")), ("1000".into(), "900".into()));
        assert_eq!(of("x-ratelimit-reset"), "6");
    }

    #[test]
    fn pages_of_other_origins_read_the_headers() {
        assert!([SCOPE, LIMIT, REMAINING, RESET].iter().all(|name| crate::cors::EXPOSED.contains(name)));
    }

    #[test]
    fn a_refusal_says_when_to_come_back_and_what_to_do() {
        let standing = Standing::new(Kind::Events, &Rule::per_day(10_000), 0);
        let refused = Refused { standing, retry_after_s: seconds(Duration::from_millis(8_641)), is_stress: false };
        let mut response = refused.into_response();
        complete(&mut response, None);
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers().get(header::RETRY_AFTER).unwrap(), "9");
        assert_eq!(response.headers().get("x-ratelimit-scope").unwrap(), "events");
        assert!(refused.message().contains("10000 events a day"));
        assert_eq!((seconds(Duration::ZERO), seconds(Duration::from_secs(90_000))), (1, 86_400));
    }
}
