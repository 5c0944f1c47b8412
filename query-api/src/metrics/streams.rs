//! Streams: who listens, and what they are sent.

use super::{Metrics, Running};
use crate::live::Full;
use crate::live::frame::Bye;

/// What a listener of a stream was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// A value.
    Value,
    /// A comment.
    Heartbeat,
    /// A failure.
    Failure,
    /// The end.
    Bye(Bye),
}

/// Streams.
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
            Sent::Value => "value",
            Sent::Heartbeat => "heartbeat",
            Sent::Failure => "error",
            Sent::Bye(Bye::Shutdown) => "bye_shutdown",
            Sent::Bye(Bye::Expired) => "bye_expired",
            Sent::Bye(Bye::Lost) => "bye_lost",
        };
        self.stream_events.with_label_values(&[kind]).inc();
    }

    /// A listener was too slow for so many values.
    pub fn stream_skipped(&self, values: u64) {
        self.stream_skipped.inc_by(values);
    }

    /// A stream was not opened.
    pub fn stream_refused(&self, full: Full) {
        let reason = match full {
            Full::ProjectListeners { .. } => "project_listeners",
            Full::ProjectQuestions { .. } => "project_questions",
            Full::Listeners => "listeners",
            Full::Questions => "questions",
        };
        self.stream_refused.with_label_values(&[reason]).inc();
    }
}
