//! A body that has to arrive at a least pace: who sends a byte now and then holds a connection and what was reserved for it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// The pace is looked at over each such time in which somebody waits for the body.
pub const WINDOW: Duration = Duration::from_secs(10);

/// What has to arrive in a window: 1 KiB per second.
pub const LEAST_BYTES: usize = 10 << 10;

/// The same pace, looked at more often while the server drains: a body that stands still does not hold up a stop.
const DRAIN_WINDOW: Duration = Duration::from_secs(2);

/// The body came slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body came slower than {} bytes in {} s", LEAST_BYTES, WINDOW.as_secs())]
pub struct TooSlow;

/// Whether a body failed because it was [`TooSlow`].
pub fn is_too_slow(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<TooSlow>())
}

/// A body with a least pace.
pub(super) struct Paced<B, D, F> {
    body: B,
    /// There is none while everything is there: a body that came with its head costs nothing.
    window: Option<Window>,
    /// Gives what ends when the server begins to drain.
    drain: D,
    on_slow: Option<F>,
}

struct Window {
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    end: Pin<Box<Sleep>>,
    bytes: usize,
    length: Duration,
}

impl Window {
    fn begin(drain: WaitForCancellationFutureOwned) -> Self {
        Self { drain: Box::pin(drain), end: Box::pin(tokio::time::sleep(WINDOW)), bytes: 0, length: WINDOW }
    }

    /// Begins a shorter one when the server drains.
    fn look_for_drain(&mut self, context: &mut Context<'_>) {
        if self.length != DRAIN_WINDOW && self.drain.as_mut().poll(context).is_ready() {
            (self.length, self.bytes) = (DRAIN_WINDOW, 0);
            self.end.as_mut().reset(Instant::now() + DRAIN_WINDOW);
        }
    }

    /// Begins the next one. Whether enough came in this one.
    fn go_on(&mut self) -> bool {
        self.end.as_mut().reset(Instant::now() + self.length);
        let least = LEAST_BYTES as f64 * self.length.div_duration_f64(WINDOW);
        std::mem::take(&mut self.bytes) as f64 >= least
    }
}

impl<B, D: Fn() -> WaitForCancellationFutureOwned, F: FnOnce()> Paced<B, D, F> {
    pub(super) fn new(body: B, drain: D, on_slow: F) -> Self {
        Self { body, window: None, drain, on_slow: Some(on_slow) }
    }
}

impl<B, D, F> HttpBody for Paced<B, D, F>
where
    D: Fn() -> WaitForCancellationFutureOwned + Unpin,
    F: FnOnce() + Unpin,
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            if let (Some(window), Some(Ok(frame))) = (&mut self.window, &frame) {
                window.bytes += frame.data_ref().map_or(0, Bytes::len);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let this = &mut *self;
        let window = this.window.get_or_insert_with(|| Window::begin((this.drain)()));
        window.look_for_drain(context);
        loop {
            ready!(window.end.as_mut().poll(context));
            if !window.go_on() {
                if let Some(on_slow) = this.on_slow.take() {
                    on_slow();
                }
                return Poll::Ready(Some(Err(TooSlow.into())));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures_util::stream;
    use http_body_util::BodyExt;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// What comes of a body that has a piece of so many bytes every five seconds, ten times.
    async fn sent(piece: usize) -> Result<usize, bool> {
        let pieces = stream::unfold(0, move |sent| async move {
            if sent == 10 {
                return None;
            }
            tokio::time::sleep(WINDOW / 2).await;
            Some((Ok::<_, std::io::Error>(Bytes::from(vec![b' '; piece])), sent + 1))
        });
        let paced =
            Paced::new(Body::from_stream(Box::pin(pieces)), || CancellationToken::new().cancelled_owned(), || {});
        match paced.collect().await {
            Ok(body) => Ok(body.to_bytes().len()),
            Err(error) => Err(is_too_slow(&*error)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_does_not_hold_up_a_drain() {
        let (drain, started) = (CancellationToken::new(), Instant::now());
        let drained = drain.clone();
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let body = tokio::spawn(Paced::new(stalled, move || drained.clone().cancelled_owned(), || {}).collect());
        tokio::time::sleep(Duration::from_secs(1)).await;
        drain.cancel();
        assert!(body.await.unwrap().is_err_and(|error| is_too_slow(&*error)));
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_cut_off_and_a_slow_body_is_not() {
        assert_eq!(sent(LEAST_BYTES).await, Ok(10 * LEAST_BYTES));
        let started = Instant::now();
        assert_eq!(sent(1).await, Err(true));
        assert!(started.elapsed() <= WINDOW + Duration::from_secs(1));
    }
}
