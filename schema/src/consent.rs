//! Whether the person behind an event has refused to be measured.
//!
//! `context.consent.analytics` is `false`: the event is dropped before anything of it is kept, and its sender is told. Anything else, also
//! that nothing is said, is for the sender to have settled.

use serde::Deserialize;

use crate::property::{Place, Property, PropertyValue};
use crate::raw::RawEvent;

/// The property that `context.consent.analytics` becomes.
const FIELD: &str = "context.consent.analytics";

/// The code by which dropped events are told and counted.
pub const DROPPED: &str = "no_consent";

/// What a sender is told.
pub const DROPPED_MESSAGE: &str =
    "`context.consent.analytics` is false: the event was dropped and nothing of it is kept; do not send it again";

/// Whether consent to analytics is refused. Of several answers one that refuses is enough.
pub fn is_refused(event: &RawEvent<'_>) -> bool {
    event.properties.iter().any(is_refusal)
}

fn is_refusal(property: &Property<'_>) -> bool {
    property.sent.place == Place::Context
        && property.name == FIELD
        && match &property.value {
            // Booleans are kept as text. Whoever writes "false" or 0 means it.
            PropertyValue::Text(text) => text.trim().eq_ignore_ascii_case("false"),
            PropertyValue::Number(number) => *number == 0.0,
        }
}

/// The same of an event that cannot be read as one, as far as it is JSON.
pub fn is_refused_in(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Event {
        context: Context,
    }
    #[derive(Deserialize)]
    struct Context {
        consent: Consent,
    }
    #[derive(Deserialize)]
    struct Consent {
        analytics: bool,
    }
    // Only in refused events, so that it costs nothing else.
    memchr::memmem::find(text.as_bytes(), b"consent").is_some()
        && serde_json::from_str::<Event>(text).is_ok_and(|event| !event.context.consent.analytics)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::read;

    #[test]
    fn only_a_refusal_is_one() {
        for (event, expected) in [
            (r#"{"eventType":"a","context":{"consent":{"analytics":false}}}"#, true),
            (r#"{"eventType":"a","context":{"consent":{"analytics":"False"}}}"#, true),
            (r#"{"eventType":"a","context":{"consent.analytics":0}}"#, true),
            (r#"{"eventType":"a","context":{"consent":{"analytics":true,"analytics":false}}}"#, true),
            (r#"{"eventType":"a","context":{"consent":{"analytics":true}}}"#, false),
            (r#"{"eventType":"a","context":{"consent":{"analytics":null,"ads":false}}}"#, false),
            (r#"{"eventType":"a","properties":{"context":{"consent":{"analytics":false}}}}"#, false),
            (r#"{"eventType":"a","consent":{"analytics":false}}"#, false),
            (r#"{"eventType":"a"}"#, false),
        ] {
            assert_eq!(is_refused(&read(event).unwrap()), expected, "{event}");
        }
    }

    #[test]
    fn it_is_seen_in_events_that_are_refused() {
        assert!(is_refused_in(r#"{"eventType":5,"context":{"consent":{"analytics":false}}}"#));
        for other in [r#"{"eventType":5}"#, r#"{"eventType":5,"context":{"consent":{"analytics":true}}}"#, "consent"] {
            assert!(!is_refused_in(other), "{other}");
        }
    }
}
