//! Server-sent events as bytes: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use bytes::Bytes;
use serde::Serialize;

use super::update::Failure;
use crate::render::json;

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bye {
    /// The service stops.
    Shutdown,
    /// The stream has lasted as long as one may.
    Expired,
    /// Its ticker is gone.
    Lost,
}

impl Bye {
    /// As in the event and in metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }
}

/// A value, under an id that tells whether a client that comes back has it.
pub fn data(id: &str, body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(id.len() + body.len() + 16);
    frame.extend_from_slice(b"id: ");
    frame.extend_from_slice(id.as_bytes());
    // A line break within the body would end the field; JSON as we write it has none.
    for line in body.split(|byte| *byte == b'\n') {
        frame.extend_from_slice(b"\ndata: ");
        frame.extend_from_slice(line);
    }
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// A failure. It has no id, so a client that comes back still names the last value.
pub fn error(failure: &Failure) -> Bytes {
    event("error", failure)
}

pub fn bye(bye: Bye) -> Bytes {
    #[derive(Serialize)]
    struct Reason {
        reason: &'static str,
    }
    event("bye", &Reason { reason: bye.reason() })
}

/// A comment: the stream is alive and there is nothing new.
pub const fn heartbeat() -> Bytes {
    Bytes::from_static(b": unchanged\n\n")
}

/// How long a client waits before it comes back.
pub fn retry(ms: u64) -> Bytes {
    format!("retry: {ms}\n\n").into()
}

fn event(name: &str, data: &impl Serialize) -> Bytes {
    format!("event: {name}\ndata: {}\n\n", json::text(data)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_standard_has_them() {
        assert_eq!(data("3-ab", b"{\"a\":1}"), "id: 3-ab\ndata: {\"a\":1}\n\n");
        assert_eq!(data("3-ab", b"a\nb"), "id: 3-ab\ndata: a\ndata: b\n\n");
        let failure = Failure { code: "unavailable", message: "come\nback".into() };
        assert_eq!(error(&failure), "event: error\ndata: {\"code\":\"unavailable\",\"message\":\"come\\nback\"}\n\n");
        assert_eq!(bye(Bye::Shutdown), "event: bye\ndata: {\"reason\":\"shutdown\"}\n\n");
        assert_eq!(retry(1_500), "retry: 1500\n\n");
        assert!(heartbeat().starts_with(b":") && heartbeat().ends_with(b"\n\n"));
    }
}
