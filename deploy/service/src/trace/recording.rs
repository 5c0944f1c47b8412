//! What is kept of a request until its end is known, and of a batch.

use std::borrow::Cow;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::span::{Attribute, EndedSpan, Kind, Recorder};
use super::{CLIENT_LEFT, CURRENT, Current, DropReason, SLOW, SpanId, Trace, Tracer};

/// Steps of one request that are recorded.
const MOST_STEPS: usize = 64;

/// An insert that took so long is recorded without anybody's asking.
const SLOW_INSERT: Duration = Duration::from_secs(5);

/// A request that is answered. Its steps are held until it is known how it ends; one that is dropped has ended by its client's leaving.
pub struct RequestTrace {
    held: Arc<Held>,
    parent: Option<SpanId>,
    began: SystemTime,
    since: Instant,
    is_ended: bool,
}

struct Held {
    tracer: Tracer,
    trace: Trace,
    steps: Mutex<Steps>,
}

enum Steps {
    Open(Vec<EndedSpan>),
    /// The request has ended and is recorded, and so are steps that go on beside.
    Kept,
    Left,
}

/// How a request ended.
pub struct RequestEnd {
    pub name: String,
    pub attributes: Vec<(&'static str, Attribute)>,
    pub error: Option<Cow<'static, str>>,
    /// Failed or slow: it is recorded, sampled or not.
    pub is_notable: bool,
}

impl RequestTrace {
    pub(super) fn new(tracer: Tracer, trace: Trace, parent: Option<SpanId>) -> Self {
        let held = Arc::new(Held { tracer, trace, steps: Mutex::new(Steps::Open(Vec::new())) });
        Self { held, parent, began: SystemTime::now(), since: Instant::now(), is_ended: false }
    }

    pub fn trace(&self) -> Trace {
        self.held.trace
    }

    /// What `work` does is a step of the request.
    pub async fn scope<F: Future>(&self, work: F) -> F::Output {
        let recorder = Some(Arc::clone(&self.held) as Arc<dyn Recorder>);
        CURRENT.scope(Current { trace: self.held.trace, recorder }, work).await
    }

    pub fn end(&mut self, end: RequestEnd) {
        self.is_ended = true;
        let RequestEnd { name, attributes, error, is_notable } = end;
        let Held { tracer, trace, .. } = &*self.held;
        let is_kept = is_notable || trace.is_sampled();
        let after = if is_kept { Steps::Kept } else { Steps::Left };
        let before = std::mem::replace(&mut *self.held.steps(), after);
        if !is_kept {
            return;
        }
        tracer.send(EndedSpan {
            trace: *trace,
            parent: self.parent,
            kind: Kind::Server,
            name: name.into(),
            began: self.began,
            took: self.since.elapsed(),
            attributes,
            error,
        });
        if let Steps::Open(steps) = before {
            steps.into_iter().for_each(|step| tracer.send(step));
        }
    }
}

impl Drop for RequestTrace {
    fn drop(&mut self) {
        if !self.is_ended {
            let attributes = vec![("http.response.status_code", CLIENT_LEFT.into())];
            // Whoever waited for a slow one may have given up.
            let is_notable = self.since.elapsed() >= SLOW;
            self.end(RequestEnd { name: "request".to_owned(), attributes, error: None, is_notable });
        }
    }
}

impl Held {
    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder for Held {
    fn ended(&self, span: EndedSpan) {
        match &mut *self.steps() {
            Steps::Open(steps) if steps.len() < MOST_STEPS => steps.push(span),
            Steps::Open(_) => self.tracer.drop(DropReason::TooMany, 1),
            Steps::Kept => self.tracer.send(span),
            Steps::Left => {}
        }
    }
}

/// A batch that is stored. In the trace of each record whose sender records it, there is a span below the sender's, and below that one each step. A
/// step that fails, or is slow, is recorded without such a record too, in a trace of the batch.
pub struct BatchTrace {
    steps: Arc<BatchSteps>,
    senders: Vec<Trace>,
    began: SystemTime,
    since: Instant,
}

struct BatchSteps {
    tracer: Tracer,
    own: Trace,
    is_own_told: AtomicBool,
    /// In the same order as their senders.
    copies: Vec<Trace>,
}

impl BatchTrace {
    pub(super) fn new(tracer: Tracer, senders: Vec<Trace>) -> Self {
        let copies = senders.iter().map(|sender| sender.child()).collect();
        let steps = BatchSteps { tracer, own: Trace::begin(), is_own_told: AtomicBool::new(false), copies };
        Self { steps: Arc::new(steps), senders, began: SystemTime::now(), since: Instant::now() }
    }

    /// What `work` does is a step of the batch.
    pub async fn scope<F: Future>(&self, work: F) -> F::Output {
        let recorder = Some(Arc::clone(&self.steps) as Arc<dyn Recorder>);
        let trace = self.steps.copies.first().copied().unwrap_or(self.steps.own);
        CURRENT.scope(Current { trace, recorder }, work).await
    }

    /// The batch is stored, or given up.
    pub fn end(self, name: &'static str, attributes: &[(&'static str, Attribute)]) {
        let BatchSteps { tracer, own, is_own_told, copies } = &*self.steps;
        let span = |trace: Trace, parent: Option<SpanId>| EndedSpan {
            trace,
            parent,
            kind: Kind::Consumer,
            name: name.into(),
            began: self.began,
            took: self.since.elapsed(),
            attributes: attributes.to_vec(),
            error: None,
        };
        if is_own_told.load(Ordering::Relaxed) {
            tracer.send(span(*own, None));
        }
        for (copy, sender) in copies.iter().zip(&self.senders) {
            tracer.send(span(*copy, Some(sender.span_id())));
        }
    }
}

impl Recorder for BatchSteps {
    fn ended(&self, span: EndedSpan) {
        let Some((first, others)) = self.copies.split_first() else {
            if span.error.is_some() || span.took >= SLOW_INSERT {
                self.is_own_told.store(true, Ordering::Relaxed);
                self.tracer.send(span);
            }
            return;
        };
        for copy in others {
            // Steps of steps keep their parents: an id is of one trace only.
            let parent = span.parent.map(|parent| if parent == first.span_id() { copy.span_id() } else { parent });
            self.tracer.send(EndedSpan { trace: Trace { trace: copy.trace, ..span.trace }, parent, ..span.clone() });
        }
        self.tracer.send(span);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;
    use tokio::sync::mpsc::{Receiver, channel};

    use super::super::{Dropped, Sampling};
    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("spans", "spans").unwrap()
    }

    /// One whose queue has so much room.
    fn tracer(share: f64, room: usize) -> (Tracer, Receiver<EndedSpan>, Dropped) {
        let (sender, queue) = channel(room);
        let dropped = Dropped { queue_full: counter(), too_many: counter(), not_taken: counter(), shutdown: counter() };
        (Tracer::new(Sampling::new(share), sender, dropped.clone()), queue, dropped)
    }

    fn told(queue: &mut Receiver<EndedSpan>) -> Vec<EndedSpan> {
        std::iter::from_fn(|| queue.try_recv().ok()).collect()
    }

    fn end(is_notable: bool) -> RequestEnd {
        RequestEnd { name: "GET /".to_owned(), attributes: Vec::new(), error: None, is_notable }
    }

    async fn step(name: &'static str) {
        drop(crate::trace::span(name, Kind::Internal));
    }

    #[tokio::test]
    async fn steps_are_told_of_requests_that_fail_and_of_the_sampled_share() {
        for (share, is_notable, expected) in [(0.0, false, 0), (0.0, true, 2), (1.0, false, 2)] {
            let (tracer, mut queue, _) = tracer(share, 8);
            let mut request = tracer.request(None);
            request.scope(step("one")).await;
            assert!(told(&mut queue).is_empty(), "nobody knows yet how it ends");
            request.end(end(is_notable));
            assert_eq!(told(&mut queue).len(), expected, "{share} {is_notable}");
        }
    }

    #[tokio::test]
    async fn steps_are_below_each_other_and_below_the_callers_span_also_in_another_task() {
        let (tracer, mut queue, _) = tracer(1.0, 8);
        let caller = Trace::below(None);
        let mut request = tracer.request(Some(caller));
        let beside = async {
            let outer = crate::trace::span("outer", Kind::Internal);
            outer.during(async { tokio::spawn(crate::trace::carried(step("inner"))).await.unwrap() }).await;
        };
        request.scope(beside).await;
        request.end(end(false));
        let spans = told(&mut queue);
        assert!(spans.iter().all(|span| span.trace.trace_id() == caller.trace_id()), "{spans:?}");
        let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        let [server, outer, inner] = ["GET /", "outer", "inner"].map(find);
        let parents = [server, outer, inner].map(|span| span.parent);
        let expected = [caller, server.trace, outer.trace].map(|above| Some(above.span_id()));
        assert_eq!(parents, expected);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let (tracer, mut queue, dropped) = tracer(1.0, 2);
        let mut request = tracer.request(None);
        for _ in 0..MOST_STEPS + 3 {
            request.scope(step("one")).await;
        }
        request.end(end(false));
        assert_eq!((told(&mut queue).len(), dropped.too_many.get()), (2, 3));
        assert_eq!(dropped.queue_full.get(), MOST_STEPS as u64 - 1);
        drop(queue);
        tracer.request(None).end(end(false));
        assert_eq!(dropped.shutdown.get(), 1);
    }

    #[tokio::test]
    async fn a_request_whose_client_left_is_told_when_it_is_sampled() {
        let (tracer, mut queue, _) = tracer(1.0, 8);
        drop(tracer.request(None));
        let spans = told(&mut queue);
        assert_eq!(spans[0].attributes, [("http.response.status_code", Attribute::Whole(499))]);
    }

    #[tokio::test]
    async fn a_request_whose_client_gave_up_is_told_when_it_was_slow() {
        let (tracer, mut queue, _) = tracer(0.0, 8);
        drop(tracer.request(None));
        assert!(told(&mut queue).is_empty());
        let mut slow = tracer.request(None);
        slow.since -= SLOW;
        drop(slow);
        assert_eq!(told(&mut queue).len(), 1);
    }

    #[tokio::test]
    async fn a_batch_is_told_in_the_trace_of_each_sender_and_a_failure_in_its_own() {
        let (tracer, mut queue, dropped) = tracer(0.0, 16);
        let senders = [Trace::below(None), Trace::below(None)].map(|sender| sender.with_sampled(true));
        let batch = tracer.batch(senders.to_vec(), 5);
        batch.scope(step("insert")).await;
        batch.end("store", &[]);
        let spans = told(&mut queue);
        assert_eq!((spans.len(), dropped.too_many.get()), (4, 5));
        for sender in senders {
            let of = |name: &str| {
                spans.iter().find(|span| span.name == name && span.trace.trace_id() == sender.trace_id()).unwrap()
            };
            let (store, insert) = (of("store"), of("insert"));
            assert_eq!((store.parent, insert.parent), (Some(sender.span_id()), Some(store.trace.span_id())));
        }

        let batch = tracer.batch(Vec::new(), 0);
        batch.scope(step("insert")).await;
        assert!(told(&mut queue).is_empty(), "it went well, and nobody asked");
        batch
            .scope(async {
                let mut span = crate::trace::span("insert", Kind::Client);
                span.fail("refused");
            })
            .await;
        assert_eq!(told(&mut queue).len(), 1, "at once, however long it is repeated");
        batch.end("store", &[]);
        assert_eq!(told(&mut queue)[0].name, "store");
    }
}
