//! A request, forwards:
//!
//! ```text
//! request -> sender -> admit -> read -> open -> normalise -> charge -> submit -> acknowledge -> reply
//!                                                                            |
//!                          into the local log (`direct`) or into Kafka (`kafka`)
//! ```
//!
//! Before `submit` nothing was accepted, and every error is a plain refusal. After it, a request ends in one of three ways:
//! every event is durable (2xx), some were handed back before any attempt (503, nothing of them is kept), or the deadline
//! passed (503): they may still become durable, and a retry is recognised as a duplicate.

mod charge;
mod confirm;
mod sender;
mod take;

use std::sync::Arc;

use axum::extract::Request;
use bytes::Bytes;
use tallyhouse_control::LiveCatalogue;
use tallyhouse_schema::Rejection;
use tallyhouse_service::access::Principal;
use tallyhouse_service::health::Health;
use tallyhouse_service::rate_limit::RateLimits;
use tallyhouse_service::trace::{self, Kind};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::admit::{Budget, Room, Threads};
use crate::agent::Agents;
use crate::answer::Reply;
use crate::body::{Encoding, check_announced, inflate, receive};
use crate::cardinality::CardinalityLimiter;
use crate::dead_letters::Sink;
use crate::decode;
use crate::delivery::Delivery;
use crate::limits::RequestLimits;
use crate::projects::LiveProjects;
use crate::request::{IngestOptions, RequestError, layout, traceparent};
use crate::telemetry::Metrics;
use take::{Asked, Taken};

/// Bodies above this are parsed on one of [`Threads`]: they would hold up other requests.
const LARGE_BODY: usize = 256 * 1024;

/// What every request needs.
pub struct Pipeline {
    pub(crate) limits: RequestLimits,
    pub(crate) projects: LiveProjects,
    pub(crate) catalogue: LiveCatalogue,
    pub(crate) agents: Agents,
    pub(crate) budget: Budget,
    pub(crate) threads: Threads,
    pub(crate) delivery: Delivery,
    pub(crate) dead_letters: Arc<dyn Sink>,
    pub(crate) cardinality: Arc<CardinalityLimiter>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
    pub(crate) rate_limits: RateLimits,
}

/// A body, and the room that it takes.
struct Body {
    bytes: Bytes,
    room: Room,
}

impl Pipeline {
    /// Handles a request.
    pub async fn run(self: &Arc<Self>, caller: &Principal, request: Request) -> Result<Reply, RequestError> {
        let (head, body) = request.into_parts();
        let sender = self.sender(caller).await?;
        let (options, layout, encoding) =
            (IngestOptions::of(&head.uri)?, layout(&head.headers)?, Encoding::of(&head.headers)?);

        check_announced(&head.headers, self.limits)?;
        let mut room = self.budget.enter(&sender.rules.project, sender.settings.priority)?;
        let sent = receive(body, self.limits, &mut room).await?;
        // The one deadline of every wait from here on.
        let deadline = Instant::now() + self.limits.ack_timeout;
        let ready = self.delivery.prepare(&sender.rules.project, deadline).await;
        let asked = Asked {
            layout,
            sender,
            keeps_dead_letters: options.keeps_dead_letters,
            ready,
            trace: traceparent(&head.headers),
        };
        let span = trace::span("read", Kind::Internal);
        let (taken, body) = span.during(self.read(Body { bytes: sent, room }, encoding, asked, deadline)).await?;
        drop(span);
        let span = trace::span("deliver", Kind::Producer);
        let mut reply = span.during(self.confirm(taken, options.wait, deadline)).await?;
        drop(span);
        let is_late =
            |rejection: &Rejection| matches!(rejection, Rejection::TooLargeForLog | Rejection::RefusedByStore { .. });
        for rejected in reply.rejected.iter_mut().filter(|rejected| is_late(&rejected.rejection)) {
            rejected.event_id = decode::event_id_at(&body.bytes, self.limits.decoded_bytes, layout, rejected.index);
        }
        Ok(reply)
    }

    /// Inflates a body and submits its events. What may take long is done on a thread of its own, both at once: a body that was inflated takes
    /// the most room, and does not wait for those that are still small.
    async fn read(
        self: &Arc<Self>,
        body: Body,
        encoding: Encoding,
        asked: Asked,
        deadline: Instant,
    ) -> Result<(Taken, Body), RequestError> {
        let Body { bytes: sent, mut room } = body;
        if encoding == Encoding::Plain && sent.len() <= LARGE_BODY {
            return Ok((self.take(&sent, asked, &mut room).await?, Body { bytes: sent, room }));
        }
        let (pipeline, project) = (Arc::clone(self), asked.sender.rules.project.clone());
        let read = move || {
            let bytes = match encoding {
                Encoding::Plain => sent,
                Encoding::Gzip | Encoding::Zstd => inflate(&sent, encoding, pipeline.limits, &mut room)?,
            };
            // Charging may wait for Redis, for a moment.
            let taken = Handle::current().block_on(pipeline.take(&bytes, asked, &mut room))?;
            room.shrink_to(bytes.len());
            Ok((taken, Body { bytes, room }))
        };
        self.threads.run(&project, deadline, read).await?
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
