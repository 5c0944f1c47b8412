//! Streams ClickHouse's bytes to the client, no faster than the client reads them.
//!
//! ```text
//! ClickHouse -> cursor -> shape -> channel of one chunk -> hyper -> client
//! ```
//!
//! One or two chunks are in memory. A client that does not read fills the channel, then the connection to ClickHouse,
//! then stops the query's pipeline.
//!
//! Failure cases: ClickHouse fails, the answer exceeds its limit, the client stalls, or its average rate is too low: the body
//! ends with an error and hyper breaks the connection without the last chunk, so that every HTTP client reports a failure.
//! When the client leaves, the query is stopped, and its permit is released once it was.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::query::BytesCursor;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::shape::Shape;
use crate::admission::SendPermit;
use crate::store::Watched;
use crate::telemetry::{Metrics, StreamCut};

/// The longest that ClickHouse may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes per second that a client reads at least, on average over all the time that was waited for it; [`Limits::stall`] is
/// given on top. So an answer of 100 MB is sent within 17 minutes of waiting, however its reader spreads its pauses: nobody
/// holds a permit for hours by reading a little before each stall.
pub const LEAST_RATE: u64 = 100_000;

/// With this ClickHouse 25.11 and later end an answer that failed half-way. The client finds it within one chunk; here it is
/// looked for where it was split.
const EXCEPTION: &[u8] = b"__exception__\r\n";

/// How much and how slowly.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest answer in bytes.
    pub max_bytes: u64,
    /// The longest that a client may read nothing.
    pub stall: Duration,
}

/// An answer on its way.
pub struct Outgoing {
    /// Its first bytes; `None` when it is empty.
    pub first: Option<Bytes>,
    pub cursor: BytesCursor,
    /// What is made of the bytes.
    pub shape: Shape,
    /// The query, if ClickHouse still works for it.
    pub watched: Option<Watched>,
    /// Its permit to be sent, unless the query holds one.
    pub permit: Option<SendPermit>,
    /// Its limits.
    pub limits: Limits,
    pub metrics: Metrics,
}

enum StreamPart {
    Bytes(Bytes),
    End,
}

/// Why an answer was broken off; the client sees its connection break.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the answer was broken off: {}", .0.label())]
struct Broken(StreamCut);

impl Outgoing {
    /// The body. A task forwards the bytes, so that a deadline can run while nobody polls the body.
    pub fn into_body(self) -> Body {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.forward(sender));
        Body::from_stream(stream::unfold(Some(receiver), async |receiver| {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(Ok(StreamPart::Bytes(bytes))) => Some((Ok(bytes), Some(receiver))),
                Some(Ok(StreamPart::End)) => None,
                Some(Err(broken)) => Some((Err(broken), None)),
                // The task is gone without a word: at shutdown, or it gave up on a client that did not read.
                None => Some((Err(Broken(StreamCut::Stalled)), None)),
            }
        }))
    }

    async fn forward(mut self, sender: mpsc::Sender<Result<StreamPart, Broken>>) {
        let sent = self.forward_all(&sender).await;
        let Self { cursor, watched, permit, limits, metrics, .. } = self;
        // First: a query that writes to nobody does not notice KILL.
        drop(cursor);
        let last = match sent {
            Ok(()) => {
                watched.into_iter().for_each(Watched::answered);
                Ok(StreamPart::End)
            }
            Err(cut) => {
                let query_id = watched.as_ref().map(Watched::query_id);
                tracing::warn!(query_id, reason = cut.label(), "an answer was broken off");
                metrics.stream_cut(cut);
                match cut {
                    StreamCut::Failed => watched.into_iter().for_each(Watched::broke),
                    StreamCut::Silent => drop(watched.map(Watched::timed_out)),
                    StreamCut::TooLarge | StreamCut::Stalled | StreamCut::TooSlow | StreamCut::Left => drop(watched),
                }
                Err(Broken(cut))
            }
        };
        // When this fails, the client is gone.
        drop(tokio::time::timeout(limits.stall, sender.send(last)).await);
        drop(permit);
    }

    async fn forward_all(&mut self, sender: &mpsc::Sender<Result<StreamPart, Broken>>) -> Result<(), StreamCut> {
        let mut sent = Sent::nothing(self.limits);
        let mut next = self.first.take();
        while let Some(chunk) = next {
            sent.note(&chunk)?;
            let shaped = self.shape.push(chunk).ok_or(StreamCut::Failed)?;
            sent.send(sender, shaped).await?;
            next = tokio::select! {
                biased;
                () = sender.closed() => return Err(StreamCut::Left),
                next = tokio::time::timeout(SILENCE, self.cursor.next()) => chunk_of(next)?,
            };
        }
        if sent.tail == EXCEPTION {
            return Err(StreamCut::Failed);
        }
        sent.send(sender, self.shape.finish().ok_or(StreamCut::Failed)?).await
    }
}

type Next = Result<Result<Option<Bytes>, tallyhouse_sql::clickhouse::error::Error>, tokio::time::error::Elapsed>;

fn chunk_of(next: Next) -> Result<Option<Bytes>, StreamCut> {
    match next {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => {
            tracing::warn!(error = %StoreError::from(error), "an answer failed half-way");
            Err(StreamCut::Failed)
        }
        Err(_) => Err(StreamCut::Silent),
    }
}

struct Sent {
    /// Bytes that ClickHouse gave.
    bytes: u64,
    limits: Limits,
    tail: Vec<u8>,
    /// Bytes that the client took, or that are on their way to it.
    given: u64,
    /// How long it was waited for.
    waited: Duration,
}

impl Sent {
    const fn nothing(limits: Limits) -> Self {
        Self { bytes: 0, limits, tail: Vec::new(), given: 0, waited: Duration::ZERO }
    }

    fn note(&mut self, chunk: &[u8]) -> Result<(), StreamCut> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.limits.max_bytes {
            return Err(StreamCut::TooLarge);
        }
        let end = chunk.get(chunk.len().saturating_sub(EXCEPTION.len())..).unwrap_or_default();
        self.tail.extend_from_slice(end);
        self.tail.drain(..self.tail.len().saturating_sub(EXCEPTION.len()));
        Ok(())
    }

    async fn send(&mut self, sender: &mpsc::Sender<Result<StreamPart, Broken>>, bytes: Bytes) -> Result<(), StreamCut> {
        let (began, length, left) = (Instant::now(), bytes.len() as u64, self.left());
        // A replaced byte and a local time are longer than what came.
        if self.given.saturating_add(length) > self.limits.max_bytes {
            return Err(StreamCut::TooLarge);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = tokio::time::timeout(self.limits.stall.min(left), sender.send(Ok(StreamPart::Bytes(bytes)))).await;
        self.waited += began.elapsed();
        self.given += length;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(StreamCut::Left),
            Err(_) if left < self.limits.stall => Err(StreamCut::TooSlow),
            Err(_) => Err(StreamCut::Stalled),
        }
    }

    /// How long it may still be waited for the client, for what it was given so far.
    fn left(&self) -> Duration {
        let allowed =
            self.limits.stall.saturating_add(Duration::from_millis(self.given.saturating_mul(1_000) / LEAST_RATE));
        allowed.saturating_sub(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_exception_and_too_many_bytes_are_noticed() {
        let limits = Limits { max_bytes: 100, stall: Duration::from_secs(1) };
        let mut sent = Sent::nothing(limits);
        for chunk in [&b"row\r\n__exce"[..], b"ption", b"__\r\n"] {
            sent.note(chunk).unwrap();
        }
        assert_eq!(sent.tail, EXCEPTION);
        assert_eq!(sent.note(&[0; 100]), Err(StreamCut::TooLarge));
    }

    const CHUNK: u64 = 60_000;

    /// Sends chunks to a client that takes one each `pause`; how it ended, how many it was given, and when.
    async fn sent_to_one_that_takes(pause: Duration, chunks: u64) -> (Result<(), StreamCut>, u64, Duration) {
        let (sender, mut receiver) = mpsc::channel(1);
        let client = tokio::spawn(async move {
            while receiver.recv().await.is_some() {
                tokio::time::sleep(pause).await;
            }
        });
        let limits = Limits { max_bytes: u64::MAX, stall: Duration::from_secs(30) };
        let (mut sent, began) = (Sent::nothing(limits), Instant::now());
        let mut ended = Ok(());
        for _ in 0..chunks {
            ended = sent.send(&sender, Bytes::from(vec![0; CHUNK as usize])).await;
            if ended.is_err() {
                break;
            }
        }
        client.abort();
        (ended, sent.given / CHUNK, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_has_its_time_and_one_that_only_just_moves_does_not() {
        let honest = Duration::from_millis(CHUNK * 1_000 / LEAST_RATE);
        let (ended, given, took) = sent_to_one_that_takes(honest, 2_000).await;
        assert_eq!((ended, given), (Ok(()), 2_000));
        assert!(took > Duration::from_secs(1_000), "{took:?}");
        let (ended, given, took) = sent_to_one_that_takes(Duration::from_secs(29), 2_000).await;
        assert!(
            ended == Err(StreamCut::TooSlow) && given < 10 && took < Duration::from_secs(60),
            "{ended:?} {given} {took:?}"
        );
        let (ended, given, took) = sent_to_one_that_takes(Duration::from_secs(31), 2_000).await;
        assert_eq!((ended, given, took), (Err(StreamCut::Stalled), 3, Duration::from_secs(30)));
    }
}
