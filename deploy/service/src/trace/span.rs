//! Spans: one step of what is done for a request or a batch.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{CURRENT, Current, SpanId, Trace};

/// Who is told of spans when they end.
pub(super) trait Recorder: Send + Sync {
    fn ended(&self, span: EndedSpan);
}

/// What a span is to whoever is called, or calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A step inside this process.
    Internal,
    /// A request that is answered.
    Server,
    /// A call of another service.
    Client,
    /// A message is sent.
    Producer,
    /// A message is taken.
    Consumer,
}

/// The value of an attribute. Never who somebody is, and no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Text(Cow<'static, str>),
    Whole(i64),
}

impl From<&'static str> for Attribute {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u16> for Attribute {
    fn from(number: u16) -> Self {
        Self::Whole(number.into())
    }
}

impl From<i64> for Attribute {
    fn from(number: i64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Attribute {
    fn from(number: usize) -> Self {
        Self::Whole(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u64> for Attribute {
    fn from(number: u64) -> Self {
        Self::Whole(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSpan {
    /// Its trace, and itself.
    pub trace: Trace,
    pub parent: Option<SpanId>,
    pub kind: Kind,
    pub name: Cow<'static, str>,
    pub began: SystemTime,
    pub took: Duration,
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Why it failed, if it did.
    pub error: Option<Cow<'static, str>>,
}

/// A span that goes on. It ends when it is dropped.
#[must_use = "it ends when it is dropped"]
pub struct Span(Option<Open>);

struct Open {
    span: EndedSpan,
    since: Instant,
    recorder: Arc<dyn Recorder>,
}

impl Span {
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    pub(super) fn within(current: &Current, name: &'static str, kind: Kind) -> Self {
        Self(current.recorder.as_ref().map(|recorder| Open {
            span: EndedSpan {
                trace: current.trace.child(),
                parent: Some(current.trace.span_id()),
                kind,
                name: name.into(),
                began: SystemTime::now(),
                took: Duration::ZERO,
                attributes: Vec::new(),
                error: None,
            },
            since: Instant::now(),
            recorder: Arc::clone(recorder),
        }))
    }

    /// Whether anybody is told of it.
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// The `traceparent` for whoever is called, if they should record what they do for it.
    pub fn sampled_parent(&self) -> Option<String> {
        let trace = self.0.as_ref()?.span.trace;
        trace.is_sampled().then(|| trace.traceparent())
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<Attribute>) {
        if let Some(open) = &mut self.0 {
            open.span.attributes.push((name, value.into()));
        }
    }

    /// It failed. `why` is a word or a code: no text of others.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) {
        if let Some(open) = &mut self.0 {
            open.span.error = Some(why.into());
        }
    }

    /// What `work` does is below this span.
    pub async fn during<F: Future>(&self, work: F) -> F::Output {
        match &self.0 {
            Some(open) => {
                let current = Current { trace: open.span.trace, recorder: Some(Arc::clone(&open.recorder)) };
                CURRENT.scope(current, work).await
            }
            None => work.await,
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(Open { mut span, since, recorder }) = self.0.take() {
            span.took = since.elapsed();
            recorder.ended(span);
        }
    }
}
