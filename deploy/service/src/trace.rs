//! The trace that a request belongs to, as W3C has it (`traceparent`): what the caller says, else a new one.
//!
//! ```text
//! traceparent: 00-TRACE-PARENT-FLAGS -> the same trace, a span of this service
//! none, or one that is none          -> a new trace
//! ```

use std::fmt;

tokio::task_local! {
    static CURRENT: Trace;
}

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
    CURRENT.try_with(|trace| *trace).ok()
}

impl Trace {
    /// A span in the trace that a `traceparent` names, or in a new one.
    pub fn of(traceparent: Option<&str>) -> Self {
        let (trace, flags) = traceparent.and_then(parsed).unwrap_or_else(|| (rand::random::<u128>().max(1), 0));
        Self { trace, span: rand::random::<u64>().max(1), flags }
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
        CURRENT.scope(self, work).await
    }
}

/// Trace and flags. Versions beyond 0 may have more behind them, and `ff` is none (W3C Trace Context, 3.2).
fn parsed(text: &str) -> Option<(u128, u8)> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_well_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    if !is_well_formed || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
    (trace != 0 && span != 0).then_some((trace, u8::from_str_radix(flags, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_callers_trace_goes_on_with_a_span_of_ours() {
        let trace = Trace::of(Some(GIVEN));
        let told = trace.traceparent();
        assert!(told.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && told.ends_with("-01"), "{told}");
        assert_ne!(told, GIVEN);
        assert_eq!(parsed(&told), Some((trace.trace, 1)));
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
            assert_eq!(parsed(text), None, "{text}");
            assert_ne!(Trace::of(Some(text)).trace, 0);
        }
        assert!(parsed("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more").is_some(), "a version to come");
        assert_ne!(Trace::of(None).trace, Trace::of(None).trace);
    }
}
