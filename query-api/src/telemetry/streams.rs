//! Metrics of streams: listeners, and what they are sent.

use std::borrow::Cow;

use super::{Metrics, Running};

/// What a listener of a stream was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Value,
    /// A comment.
    Heartbeat,
    Failure,
    /// The end, for this reason.
    Bye(&'static str),
}

impl Metrics {
    /// Somebody listens, until the guard is dropped.
    pub fn stream_listener(&self) -> Running {
        Running::new(&self.stream_listeners)
    }

    /// A question is streamed, until the guard is dropped.
    pub fn stream_question(&self) -> Running {
        Running::new(&self.stream_questions)
    }

    /// A listener was sent something.
    pub fn stream_sent(&self, sent: Sent) {
        let kind = match sent {
            Sent::Value => Cow::Borrowed("value"),
            Sent::Heartbeat => Cow::Borrowed("heartbeat"),
            Sent::Failure => Cow::Borrowed("error"),
            Sent::Bye(reason) => Cow::Owned(format!("bye_{reason}")),
        };
        self.stream_events.with_label_values(&[&*kind]).inc();
    }

    /// A listener was too slow for so many values.
    pub fn stream_skipped(&self, values: u64) {
        self.stream_skipped.inc_by(values);
    }

    /// A stream was not opened.
    pub fn stream_refused(&self, reason: &'static str) {
        self.stream_refused.with_label_values(&[reason]).inc();
    }
}
