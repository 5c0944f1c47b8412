//! Begins what is traced, and hands ended spans to the queue.

use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::recording::{BatchTrace, RequestTrace};
use super::span::EndedSpan;
use super::{Sampling, Trace};

/// Why a span is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// More came than the collector takes.
    QueueFull,
    /// A request has more steps, or a batch records of more traces, than are recorded.
    TooMany,
    /// The collector did not take it, or not in time.
    NotTaken,
    /// The process ended before.
    Shutdown,
}

/// Counts dropped spans, by reason.
#[derive(Debug, Clone)]
pub struct Dropped {
    pub queue_full: IntCounter,
    pub too_many: IntCounter,
    pub not_taken: IntCounter,
    pub shutdown: IntCounter,
}

impl Dropped {
    pub fn add(&self, why: DropReason, spans: u64) {
        let counter = match why {
            DropReason::QueueFull => &self.queue_full,
            DropReason::TooMany => &self.too_many,
            DropReason::NotTaken => &self.not_taken,
            DropReason::Shutdown => &self.shutdown,
        };
        counter.inc_by(spans);
    }
}

/// Begins traces. Clones share everything.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sampling: Sampling,
    queue: Sender<EndedSpan>,
    dropped: Dropped,
}

impl Tracer {
    pub fn new(sampling: Sampling, queue: Sender<EndedSpan>, dropped: Dropped) -> Self {
        Self(Arc::new(Inner { sampling, queue, dropped }))
    }

    /// A request begins: below the span that its caller names, or in a new trace. The flag `sampled` says from here on what this service decided.
    pub fn request(&self, caller: Option<Trace>) -> RequestTrace {
        let trace = Trace::below(caller);
        let trace = trace.with_sampled(self.0.sampling.takes(trace));
        RequestTrace::new(self.clone(), trace, caller.map(Trace::span_id))
    }

    /// A batch begins, with records of these traces: those that their senders record. `left_out`: records of more of them.
    pub fn batch(&self, senders: Vec<Trace>, left_out: u64) -> BatchTrace {
        self.drop(DropReason::TooMany, left_out);
        BatchTrace::new(self.clone(), senders)
    }

    pub(super) fn send(&self, span: EndedSpan) {
        if let Err(error) = self.0.queue.try_send(span) {
            self.drop(
                match error {
                    TrySendError::Full(_) => DropReason::QueueFull,
                    TrySendError::Closed(_) => DropReason::Shutdown,
                },
                1,
            );
        }
    }

    pub(super) fn drop(&self, why: DropReason, spans: u64) {
        self.0.dropped.add(why, spans);
    }
}
