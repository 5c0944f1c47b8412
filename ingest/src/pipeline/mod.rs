//! A request, forwards:
//!
//! ```text
//! request -> authenticate -> admit -> read -> open -> normalise -> submit -> acknowledge -> reply
//!                                                                  |
//!                          into the local log (`direct`) or into Kafka (`kafka`)
//! ```
//!
//! Before `submit` nothing was accepted, and every error is a plain refusal. After it, a request ends in one of three ways:
//! every event is durable (2xx), some were handed back before any attempt (503, nothing of them is kept), or the deadline
//! passed (503): they may still become durable, and a retry is recognised as a duplicate.

mod authenticate;
mod confirm;
mod take;

use std::sync::Arc;

use axum::extract::Request;
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_schema::{Catalogue, Rejection};
use tallyhouse_service::health::Health;
use tallyhouse_service::keys::KeyRing;
use tokio::time::Instant;

use crate::admit::Budget;
use crate::agent::Agents;
use crate::answer::Reply;
use crate::cardinality::CardinalityLimiter;
use crate::dead_letters::Sink;
use crate::decode;
use crate::delivery::Delivery;
use crate::limits::RequestLimits;
use crate::projects::Projects;
use crate::request::body::{Encoding, read, reservation};
use crate::request::{IngestOptions, RequestError, layout, trace};
use crate::telemetry::Metrics;
use take::Asked;

/// Bodies above this are parsed on a thread for blocking work: they would hold up other requests.
const LARGE_BODY: usize = 256 * 1024;

/// What every request needs.
pub struct Pipeline {
    pub(crate) limits: RequestLimits,
    pub(crate) projects: Projects,
    pub(crate) keys: KeyRing,
    pub(crate) catalogue: Catalogue,
    pub(crate) hasher: UserHasher,
    pub(crate) agents: Agents,
    pub(crate) budget: Budget,
    pub(crate) delivery: Delivery,
    pub(crate) dead_letters: Arc<dyn Sink>,
    pub(crate) cardinality: Arc<CardinalityLimiter>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
}

impl Pipeline {
    /// Handles a request.
    pub async fn run(self: &Arc<Self>, request: Request) -> Result<Reply, RequestError> {
        let (head, body) = request.into_parts();
        let caller = self.authenticate(&head.headers)?;
        let (options, layout, encoding) =
            (IngestOptions::of(&head.uri)?, layout(&head.headers)?, Encoding::of(&head.headers)?);

        let limits = self.limits;
        let _room = self.budget.reserve(reservation(&head.headers, encoding, limits)?, caller.settings.priority)?;
        let body = read(body, encoding, limits).await?;
        // The one deadline of every wait from here on.
        let deadline = Instant::now() + limits.ack_timeout;
        let ready = self.delivery.prepare(&caller.rules.project, deadline).await;
        let (sent, sent_layout) = (body.clone(), layout);
        let asked = Asked {
            layout,
            caller,
            keeps_dead_letters: options.keeps_dead_letters,
            ready,
            trace: trace(&head.headers),
        };

        let taken = if body.len() > LARGE_BODY {
            let pipeline = Arc::clone(self);
            let work = tokio::task::spawn_blocking(move || pipeline.take(&body, asked));
            work.await.map_err(|error| {
                tracing::error!(%error, "parsing a body failed");
                RequestError::Internal
            })??
        } else {
            self.take(&body, asked)?
        };
        let mut reply = self.confirm(taken, options.wait, deadline).await?;
        let is_late =
            |rejection: &Rejection| matches!(rejection, Rejection::TooLargeForLog | Rejection::RefusedByStore { .. });
        for rejected in reply.rejected.iter_mut().filter(|rejected| is_late(&rejected.rejection)) {
            rejected.event_id = decode::event_id_at(&sent, limits.decoded_bytes, sent_layout, rejected.index);
        }
        Ok(reply)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
