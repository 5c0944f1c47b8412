//! When an event happened: `timestamp`, `sentAt` and the time of receipt -> `ts`.

use super::{Changes, ProjectRules};
use crate::event::Flags;
use crate::limits::{CLOCK_TOLERANCE_MS, DAY_MS, MAX_FUTURE_MS, MAX_SENT_AHEAD_MS, MAX_SENT_BEFORE_MS};
use crate::rejection::Rejection;
use crate::time::{self, Instant, NotATime, RawTime};
use crate::warning::Warning;

pub(super) struct Times {
    pub(super) ts: i64,
    pub(super) original: i64,
}

impl Times {
    /// When an event happened, from its `timestamp`, its `sentAt` and when it was received.
    ///
    /// An event that is sent again hours later must land where the first attempt would have, so `sentAt` moves it only where it
    /// proves that the sender's clock is wrong: nothing is received before it is sent, so a `sentAt` after `receivedAt` is one by
    /// so much. One before it is taken for a late delivery, from which a clock that is behind cannot be told. Only of an event
    /// from a clock that is ahead, sent again, the second copy lands later: by the delay, and at most by the clock's error.
    pub(super) fn decide(
        timestamp: Option<&RawTime<'_>>,
        sent_at: Option<&RawTime<'_>>,
        received_at: i64,
        rules: &ProjectRules,
        changes: &mut Changes,
    ) -> Result<Self, Rejection> {
        let Self { ts, original } = Self::of(timestamp, sent_at, received_at, changes)
            .map_err(|problem| Rejection::InvalidTime { field: "timestamp", problem })?;
        let age_days = received_at.saturating_sub(ts) / DAY_MS;
        if age_days >= i64::from(rules.retention_days) {
            return Err(Rejection::Expired { retention_days: rules.retention_days });
        }
        if age_days >= i64::from(rules.late_window_days) && !rules.may_import {
            return Err(Rejection::TooOld { window_days: rules.late_window_days });
        }
        Ok(Self { ts, original: original.clamp(STORABLE.0, STORABLE.1) })
    }

    fn of(
        timestamp: Option<&RawTime<'_>>,
        sent_at: Option<&RawTime<'_>>,
        received_at: i64,
        changes: &mut Changes,
    ) -> Result<Self, NotATime> {
        let original = timestamp.map(time::read).transpose()?;
        let original = original.map(|instant| converted("timestamp", instant, changes));
        let sent_at = sent_at.and_then(|sent_at| plausible_sent_at(sent_at, original, received_at, changes));
        let ahead = sent_at.map_or(0, |sent_at| sent_at.saturating_sub(received_at));
        let mut ts = match original {
            None => {
                changes.flags.set(Flags::NO_TIME);
                sent_at.unwrap_or(received_at).min(received_at)
            }
            Some(original) if ahead > CLOCK_TOLERANCE_MS => {
                changes.flags.set(Flags::SKEW);
                original.saturating_sub(ahead)
            }
            Some(original) => original,
        };
        let original = original.unwrap_or(ts);
        if ts > received_at.saturating_add(MAX_FUTURE_MS) {
            changes.note(Flags::FUTURE, Warning::FutureTime);
            ts = received_at;
        }
        Ok(Self { ts, original })
    }
}

/// When an event happened that was received at some time, in milliseconds since 1970: what [`super::normalise`] would decide,
/// however old the event is.
pub fn happened_at(
    timestamp: Option<&RawTime<'_>>,
    sent_at: Option<&RawTime<'_>>,
    received_at: i64,
) -> Result<i64, NotATime> {
    Times::of(timestamp, sent_at, received_at, &mut Changes::default()).map(|times| times.ts)
}

fn converted(field: &'static str, instant: Instant, changes: &mut Changes) -> i64 {
    if let Some(unit) = instant.converted {
        changes.note(Flags::CONVERTED_TIME, Warning::ConvertedTime { field, unit: unit.name() });
    }
    instant.ms
}

/// `sentAt`, if it can be when the event was sent.
fn plausible_sent_at(
    sent_at: &RawTime<'_>,
    original: Option<i64>,
    received_at: i64,
    changes: &mut Changes,
) -> Option<i64> {
    let is_plausible = |ms: i64| {
        ms >= received_at.saturating_sub(MAX_SENT_BEFORE_MS)
            && ms <= received_at.saturating_add(MAX_SENT_AHEAD_MS)
            && original.is_none_or(|original| original <= ms.saturating_add(CLOCK_TOLERANCE_MS))
    };
    match time::read(sent_at) {
        Ok(instant) if is_plausible(instant.ms) => Some(converted("sentAt", instant, changes)),
        _ => {
            changes.note(Flags::IGNORED_SENT_AT, Warning::IgnoredSentAt);
            None
        }
    }
}

/// What `DateTime64(3)` holds: 1900-01-01 to 2299-12-31. Only the time as given can be outside.
const STORABLE: (i64, i64) = (-2_208_988_800_000, 10_413_791_999_999);

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, refused, rules, ts, warned, with};
    use super::*;

    #[test]
    fn absurd_times_have_a_named_fate() {
        assert_eq!(ts(r#"{"eventType":"a"}"#).0, NOW);
        let (when, flags) = ts(r#"{"eventType":"a","timestamp":"9999-01-01T00:00:00Z"}"#);
        assert!(when == NOW && flags.has(Flags::FUTURE));
        let (when, flags) = ts(r#"{"eventType":"a","timestamp":9223372036854775807,"sentAt":-9223372036854775808}"#);
        assert!(when == NOW && flags.has(Flags::FUTURE) && flags.has(Flags::IGNORED_SENT_AT));
        let rules = rules();
        let code = |json: &str| refused(&rules, json).code();
        assert_eq!(code(r#"{"eventType":"a","timestamp":-9223372036854775808}"#), "expired");
        assert_eq!(code(r#"{"eventType":"a","timestamp":0}"#), "expired");
        assert_eq!(code(r#"{"eventType":"a","timestamp":20270115}"#), "expired");
        assert_eq!(code(r#"{"eventType":"a","timestamp":"soon"}"#), "invalid_timestamp");
        assert_eq!(code(r#"{"eventType":"a","timestamp":1e25}"#), "invalid_timestamp");
        assert_eq!(
            code(r#"{"eventType":"a","timestamp":"2027-01-15T08:00:00+05:00[Europe/Berlin]"}"#),
            "invalid_timestamp"
        );
        assert_eq!(code(r#"{"eventType":"a","timestamp":true}"#), "invalid_timestamp");
        assert_eq!(code(&format!(r#"{{"eventType":"a","timestamp":{}}}"#, NOW - 8 * DAY_MS)), "too_old");
    }

    #[test]
    fn an_import_key_may_send_history_but_not_what_is_expired() {
        let rules = ProjectRules { may_import: true, ..rules() };
        let at = |days: i64| format!(r#"{{"eventType":"a","timestamp":{}}}"#, NOW - days * DAY_MS);
        assert_eq!(with(&rules, &at(729), |e| e.map(|e| e.ts).unwrap()), NOW - 729 * DAY_MS);
        assert_eq!(refused(&rules, &at(730)).code(), "expired");
    }

    /// `ts` after the time of receipt, and the flags of time.
    fn lands(timestamp: Option<i64>, sent_at: Option<i64>) -> (i64, u16) {
        let field = |name: &str, at: Option<i64>| at.map_or(String::new(), |at| format!(r#","{name}":{}"#, NOW + at));
        let json = format!(r#"{{"eventType":"a"{}{}}}"#, field("timestamp", timestamp), field("sentAt", sent_at));
        let of_time = Flags::FUTURE.bits() | Flags::SKEW.bits() | Flags::NO_TIME.bits() | Flags::IGNORED_SENT_AT.bits();
        let (ts, flags) = ts(&json);
        (ts - NOW, flags.bits() & of_time)
    }

    const SECOND: i64 = 1_000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;

    #[test]
    fn only_a_clock_that_is_ahead_moves_an_event() {
        let (skew, no_time) = (Flags::SKEW.bits(), Flags::NO_TIME.bits());
        for (timestamp, sent_at, expected) in [
            // Times after the time of receipt: as sent, sent late, sent hours late.
            (Some(-5 * SECOND), None, (-5 * SECOND, 0)),
            (Some(-5 * SECOND), Some(-SECOND), (-5 * SECOND, 0)),
            (Some(-HOUR), Some(-HOUR + 5 * SECOND), (-HOUR, 0)),
            (Some(-3 * DAY_MS), Some(-3 * DAY_MS + SECOND), (-3 * DAY_MS, 0)),
            // A clock that is ahead by less than the tolerance, by more, and by as much as a clock can be.
            (Some(50 * SECOND), Some(55 * SECOND), (50 * SECOND, 0)),
            (Some(58 * SECOND), Some(MINUTE), (58 * SECOND, 0)),
            (Some(HOUR - 7 * SECOND), Some(HOUR), (-7 * SECOND, skew)),
            (Some(-HOUR), Some(2 * HOUR), (-3 * HOUR, skew)),
            (Some(26 * HOUR - SECOND), Some(26 * HOUR), (-SECOND, skew)),
            // Without a time it is that of sending.
            (None, None, (0, no_time)),
            (None, Some(-3 * HOUR), (-3 * HOUR, no_time)),
            (None, Some(3 * HOUR), (0, no_time)),
        ] {
            assert_eq!(lands(timestamp, sent_at), expected, "{timestamp:?} {sent_at:?}");
        }
    }

    #[test]
    fn a_sent_at_that_cannot_be_moves_nothing() {
        let (ignored, future) = (Flags::IGNORED_SENT_AT.bits(), Flags::FUTURE.bits());
        for (timestamp, sent_at, expected) in [
            (Some(-5 * SECOND), Some(26 * HOUR + 1), (-5 * SECOND, ignored)),
            (Some(-5 * SECOND), Some(-7 * DAY_MS - 1), (-5 * SECOND, ignored)),
            (Some(-5 * SECOND), Some(-NOW), (-5 * SECOND, ignored)),
            (Some(-5 * SECOND), Some(-5 * SECOND - MINUTE - 1), (-5 * SECOND, ignored)),
            (Some(HOUR), Some(-SECOND), (0, ignored | future)),
            (Some(2 * HOUR), Some(30 * MINUTE), (0, ignored | future)),
            (None, Some(27 * HOUR), (0, ignored | Flags::NO_TIME.bits())),
            (None, Some(-NOW), (0, ignored | Flags::NO_TIME.bits())),
        ] {
            assert_eq!(lands(timestamp, sent_at), expected, "{timestamp:?} {sent_at:?}");
        }
        for sent_at in ["0", "-1", "9223372036854775807", "true", "\"now\"", "\"\"", "[]", "1e300"] {
            let json = format!(r#"{{"eventType":"a","timestamp":{},"sentAt":{sent_at}}}"#, NOW - 5);
            let (when, flags) = ts(&json);
            assert_eq!((when, flags.has(Flags::IGNORED_SENT_AT)), (NOW - 5, true), "{json}");
            assert_eq!(warned(&json).last(), Some(&("ignored_sent_at", "sentAt".to_owned())), "{json}");
        }
    }

    #[test]
    fn a_retry_lands_where_the_first_attempt_would_have() {
        let rules = rules();
        let decide = |timestamp: Option<i64>, sent_at: Option<i64>, received_at: i64| {
            let raw = |time: Option<i64>| time.map(RawTime::Integer);
            let (timestamp, sent_at) = (raw(timestamp), raw(sent_at));
            Times::decide(timestamp.as_ref(), sent_at.as_ref(), received_at, &rules, &mut Changes::default())
                .unwrap()
                .ts
        };
        for delay in [0, SECOND, 10 * MINUTE, 5 * HOUR, 3 * DAY_MS] {
            for (timestamp, sent_at) in [
                (Some(NOW - 9 * SECOND), Some(NOW - 2 * SECOND)),
                (Some(NOW - 9 * SECOND), None),
                (Some(NOW + 40 * SECOND), Some(NOW + 50 * SECOND)),
                (Some(NOW - DAY_MS), Some(NOW - 2 * SECOND)),
                (Some(NOW - 3 * HOUR), Some(NOW - 3 * HOUR + SECOND)),
                (None, Some(NOW - 2 * SECOND)),
            ] {
                let (first, again) = (decide(timestamp, sent_at, NOW), decide(timestamp, sent_at, NOW + delay));
                assert_eq!(first, again, "{timestamp:?} {sent_at:?} {delay}");
            }
            // The documented exception: a clock that is ahead by two hours.
            let (timestamp, sent_at) = (Some(NOW + 2 * HOUR - SECOND), Some(NOW + 2 * HOUR));
            assert_eq!(decide(timestamp, sent_at, NOW), NOW - SECOND);
            assert_eq!(decide(timestamp, sent_at, NOW + delay), NOW - SECOND + delay.min(2 * HOUR));
        }
    }

    #[test]
    fn units_are_recognised_and_told() {
        let converted = |field: &str| vec![("converted_time", field.to_owned())];
        for (time, expected) in [
            ("1799999990", NOW - 10 * SECOND),
            ("1799999990.25", NOW - 10 * SECOND + 250),
            ("\"1799999990\"", NOW - 10 * SECOND),
            ("1799999990123456", NOW - 10 * SECOND + 123),
            ("\"1799999990123456\"", NOW - 10 * SECOND + 123),
            ("1799999990123456789", NOW - 10 * SECOND + 123),
            ("\"1799999990123456789\"", NOW - 10 * SECOND + 123),
        ] {
            let json = format!(r#"{{"eventType":"a","timestamp":{time},"properties":{{"timestamp":{time}}}}}"#);
            let (when, flags) = ts(&json);
            assert_eq!((when, flags.has(Flags::CONVERTED_TIME)), (expected, true), "{json}");
            assert_eq!(warned(&json), converted("timestamp"), "{json}");
            let sent = format!(r#"{{"eventType":"a","timestamp":{},"sentAt":{time}}}"#, NOW - 20 * SECOND);
            assert_eq!(ts(&sent).0, NOW - 20 * SECOND, "{sent}");
            assert_eq!(warned(&sent), converted("sentAt"), "{sent}");
        }
        assert_eq!(warned(r#"{"eventType":"a","timestamp":"1800000000000","sentAt":1800000000000}"#), []);
    }
}
