//! The trace that a request belongs to, as W3C has it (`traceparent`): what the caller says, else a new one; and the spans of what is done for it.
//!
//! ```text
//! traceparent: 00-TRACE-PARENT-FLAGS -> the same trace, a span of this service
//! none, or one that is none          -> a new trace
//!
//! request  begun -> spans of its steps, held -> ended: failed, slow or sampled -> queue -> collector (`crate::trace_export`)
//!                                                      else -> dropped
//! batch    begun with the traces of its records -> each span at once, once for each trace; without one only what failed or was slow
//! ```
//!
//! Ids are there with and without a collector: log lines name them. Spans are only recorded where a [`Tracer`] began the request or batch.
//!
//! Failure cases: the queue is full (a collector that is away or hangs), a request has too many steps, a batch has records of too many traces: spans
//! are dropped and counted, and nobody waits.

mod recording;
mod sampling;
mod span;
mod tracer;

use std::sync::Arc;
use std::time::Duration;

pub use recording::{BatchTrace, RequestEnd, RequestTrace};
pub use sampling::Sampling;
pub use span::{Attribute, EndedSpan, Kind, Span};
pub use tracer::{DropReason, Dropped, Tracer};

use span::Recorder;

use std::fmt;

tokio::task_local! {
    static CURRENT: Current;
}

/// Where in a trace a task is, and who is told of its spans.
#[derive(Clone)]
struct Current {
    trace: Trace,
    recorder: Option<Arc<dyn Recorder>>,
}

/// A request that takes so long is slow, and recorded: the service level of a query's p95.
pub(crate) const SLOW: Duration = Duration::from_secs(2);

/// The status of a request whose client went away before it was answered, as nginx has it.
pub(crate) const CLIENT_LEFT: u16 = 499;

/// The flag `sampled` of a `traceparent`.
const SAMPLED: u8 = 1;

/// A trace, and the span of this service in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    trace: u128,
    span: u64,
    flags: u8,
}

/// An id as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

/// An id as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

impl TraceId {
    /// As OTLP has it.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl SpanId {
    /// As OTLP has it.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The trace of the request that this task answers.
pub fn current() -> Option<Trace> {
    CURRENT.try_with(|current| current.trace).ok()
}

/// A step of what this task does; it ends when it is dropped. Nothing, where nothing is recorded.
pub fn span(name: &'static str, kind: Kind) -> Span {
    CURRENT.try_with(|current| Span::within(current, name, kind)).unwrap_or_else(|_| Span::nothing())
}

/// Work for another task, which belongs to the trace of this one.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let current = CURRENT.try_with(Clone::clone).ok();
    async move {
        match current {
            Some(current) => CURRENT.scope(current, work).await,
            None => work.await,
        }
    }
}

impl Trace {
    /// A span below a caller's, or in a new trace.
    pub fn below(caller: Option<Self>) -> Self {
        caller.map_or_else(Self::begin, Self::child)
    }

    /// The caller's span, as a `traceparent` names it. Versions beyond 0 may have more behind them, and `ff` is none (W3C Trace Context, 3.2).
    pub fn read(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_well_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        if !is_well_formed || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        (trace != 0 && span != 0).then_some(Self { trace, span, flags: u8::from_str_radix(flags, 16).ok()? })
    }

    /// A new trace.
    fn begin() -> Self {
        Self { trace: rand::random::<u128>().max(1), span: new_span(), flags: 0 }
    }

    /// A span below this one.
    fn child(self) -> Self {
        Self { span: new_span(), ..self }
    }

    /// Whether it is recorded whatever comes of it.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    fn with_sampled(self, is_sampled: bool) -> Self {
        Self { flags: if is_sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED }, ..self }
    }

    pub fn trace_id(self) -> TraceId {
        TraceId(self.trace)
    }

    pub fn span_id(self) -> SpanId {
        SpanId(self.span)
    }

    /// For whoever is called: this span is the parent there.
    pub fn traceparent(self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id(), self.span_id(), self.flags)
    }

    /// Whatever `work` logs names the trace.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(Current { trace: self, recorder: None }, work).await
    }
}

fn new_span() -> u64 {
    rand::random::<u64>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_callers_trace_goes_on_with_a_span_of_ours() {
        let trace = Trace::below(Trace::read(GIVEN));
        let told = trace.traceparent();
        assert!(told.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && told.ends_with("-01"), "{told}");
        assert_ne!(told, GIVEN);
        let read = Trace::read(&told).unwrap();
        assert_eq!((read, read.is_sampled()), (trace, true));
    }

    #[test]
    fn what_is_no_traceparent_begins_a_new_trace() {
        let odd = [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-éaf7651916cd43dd8448eb211c8031-b7ad6b7169203331-01",
        ];
        for text in odd {
            assert_eq!(Trace::read(text), None, "{text}");
            assert_ne!(Trace::below(Trace::read(text)).trace, 0);
        }
        assert!(
            Trace::read("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more").is_some(),
            "a version to come"
        );
        assert_ne!(Trace::below(None).trace, Trace::below(None).trace);
    }
}
