//! One listener: the frames it is sent, heartbeats, and its end.
//!
//! A listener has no task; the server polls the body of its response. When the client goes away the server drops the
//! body, and with it the listener's slot.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tallyhouse_control::access::Lease;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::frame::{self, Bye};
use super::hub::Listener;
use super::update::{Cursor, ToSend};
use crate::telemetry::{Metrics, Sent};

/// The longest silence. Proxies commonly close connections that are silent for 30 or 60 s.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The longest that a stream lasts.
const LIFETIME: Duration = Duration::from_secs(3_600);

/// Milliseconds that clients wait before they come back, from and to: those of an instance that stops are spread.
const RETRY_MS: (f64, f64) = (1_000.0, 5_000.0);

/// A listener and what it needs.
pub struct Listening {
    /// Its slot, and the changes.
    pub listener: Listener,
    /// What it knows.
    pub cursor: Cursor,
    /// The end of the service.
    pub shutdown: CancellationToken,
    /// How long the listener may listen.
    pub lease: Lease,
    /// Counts what is sent.
    pub metrics: Metrics,
    /// When its client is to come back.
    pub retry_ms: u64,
}

/// When a client is to come back; `random` is from 0 to 1.
pub fn retry_ms(random: f64) -> u64 {
    let (from, to) = RETRY_MS;
    (from + (to - from) * random.clamp(0.0, 1.0)) as u64
}

/// The body of a response that goes on.
pub fn body(listening: Listening) -> Body {
    // The first bytes at once: the client learns that it is connected before there is any value.
    let first = frame::retry(listening.retry_ms);
    let lease = listening.lease.clone();
    let stream = Stream {
        listening,
        first: Some(first),
        expires: Box::pin(async {
            // Whichever is first.
            drop(tokio::time::timeout(LIFETIME, lease.ended()).await);
        }),
        heartbeat: Box::pin(sleep(HEARTBEAT)),
    };
    Body::from_stream(stream::unfold(Some(stream), |stream| async {
        let (frame, rest) = stream?.next().await;
        Some((Ok::<_, Infallible>(frame), rest))
    }))
}

struct Stream {
    listening: Listening,
    first: Option<Bytes>,
    expires: Pin<Box<dyn Future<Output = ()> + Send>>,
    heartbeat: Pin<Box<Sleep>>,
}

impl Stream {
    /// The next bytes, and the rest of the stream unless they were the last.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        if let Some(first) = self.first.take() {
            return (first, Some(self));
        }
        let (frame, sent) = self.event().await;
        self.listening.metrics.stream_sent(sent);
        self.heartbeat.as_mut().reset(Instant::now() + HEARTBEAT);
        (frame, (!matches!(sent, Sent::Bye(_))).then_some(self))
    }

    async fn event(&mut self) -> (Bytes, Sent) {
        let bye = |why: Bye| (frame::bye(why), Sent::Bye(why.reason()));
        loop {
            let updates = &mut self.listening.listener.updates;
            tokio::select! {
                biased;
                () = self.listening.shutdown.cancelled() => return bye(Bye::Shutdown),
                () = &mut self.expires => return bye(Bye::Expired),
                changed = updates.changed() => match changed {
                    Ok(()) => if let Some(update) = self.update() { return update },
                    Err(_) => return bye(Bye::Lost),
                },
                () = &mut self.heartbeat => return (frame::heartbeat(), Sent::Heartbeat),
            }
        }
    }

    fn update(&mut self) -> Option<(Bytes, Sent)> {
        let to_send = self.listening.cursor.advance(&self.listening.listener.updates.borrow_and_update());
        match to_send {
            ToSend::Nothing => None,
            ToSend::Unchanged => Some((frame::heartbeat(), Sent::Heartbeat)),
            ToSend::Value { frame, skipped } => {
                self.listening.metrics.stream_skipped(skipped);
                Some((frame, Sent::Value))
            }
            ToSend::Failure { frame } => Some((frame, Sent::Failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tallyhouse_schema::Catalogue;
    use tallyhouse_service::metrics::Registry;
    use tokio::sync::watch;

    use super::*;
    use crate::authorize::Scope;
    use crate::live::query::STREAM_PARAMS;
    use crate::live::update::Update;
    use crate::live::{Hub, Limits, StreamQuery};
    use crate::plan::{Plan, one_series};
    use crate::request::{MetricQuery, Params, SeriesQuery};

    const LIMITS: Limits = Limits { listeners: 9, listeners_per_project: 9, questions: 9, questions_per_project: 9 };

    fn listening<F>(tick: impl FnOnce(watch::Sender<Update>) -> F) -> Listening
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let params = Params::parse(None, STREAM_PARAMS).unwrap();
        let series = SeriesQuery::BuiltIn(MetricQuery::parse("events", &params, &Vec::new, 0).unwrap());
        let plan = Plan::from(one_series(&series, &Catalogue::built_in().unwrap(), 0).unwrap());
        let key = StreamQuery::of(series, &params).unwrap().key(&Scope::for_test("p"), &plan).unwrap();
        let listener = Hub::new(LIMITS, metrics.clone()).listen(key, tick).unwrap_or_else(|full| panic!("{full}"));
        let cursor = Cursor::resume(None);
        let lease = Lease::until(i64::MAX);
        Listening { listener, cursor, shutdown: CancellationToken::new(), lease, metrics, retry_ms: 1_500 }
    }

    async fn silent(publish: watch::Sender<Update>) {
        let _publish = publish;
        std::future::pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_and_an_hour_is_the_end() {
        let mut frames = body(listening(silent)).into_data_stream();
        assert_eq!(frames.next().await.unwrap().unwrap(), "retry: 1500\n\n");
        let began = Instant::now();
        assert_eq!(frames.next().await.unwrap().unwrap(), frame::heartbeat());
        assert_eq!(began.elapsed().as_secs(), HEARTBEAT.as_secs());
        let rest: Vec<_> = frames.map(Result::unwrap).collect().await;
        assert_eq!(rest.last().unwrap(), &frame::bye(Bye::Expired));
        assert_eq!(began.elapsed().as_secs(), LIFETIME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_whose_credentials_end_is_sent_away() {
        let until = tallyhouse_service::clock::now_ms() + 20_000;
        let frames = body(Listening { lease: Lease::until(until), ..listening(silent) }).into_data_stream();
        let frames: Vec<_> = frames.map(Result::unwrap).collect().await;
        assert_eq!(frames, [frame::retry(1_500), frame::heartbeat(), frame::bye(Bye::Expired)]);
    }

    #[tokio::test]
    async fn the_end_of_the_service_and_of_the_ticker_are_said() {
        let stopped = listening(silent);
        stopped.shutdown.cancel();
        let lost = listening(|publish| async move { drop(publish) });
        for (listening, why) in [(stopped, Bye::Shutdown), (lost, Bye::Lost)] {
            let frames: Vec<_> = body(listening).into_data_stream().map(Result::unwrap).collect().await;
            assert_eq!(frames, [frame::retry(1_500), frame::bye(why)]);
        }
    }

    #[test]
    fn clients_come_back_at_different_times() {
        assert_eq!([retry_ms(0.0), retry_ms(0.5), retry_ms(1.0), retry_ms(9.0)], [1_000, 3_000, 5_000, 5_000]);
    }
}
