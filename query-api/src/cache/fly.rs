//! What a flight does: look once more, wait for the fleet, compute, remember, publish.

use std::sync::Arc;
use std::time::Instant;

use super::answers::{Answers, Ask, Trouble};
use super::entry::{Kept, Worth};
use super::lock::{Lease, Turn};
use super::packed::{Packed, beside};
use super::shared::Away;
use super::stamp::DaysStamp;
use super::status::StaleReason;
use super::ttl::Kind;
use crate::telemetry::Layer;
use crate::store::ReadError;

/// Which answers a flight takes instead of computing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Accept {
    /// Any that may be given out.
    Usable,
    /// One computed after this instant.
    NewerThan(i64),
}

/// What a flight brought.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The answer.
    pub(super) kept: Arc<Kept>,
    /// How it came.
    pub(super) origin: Origin,
}

/// How an answer came to a flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was there.
    Remembered,
    /// Another instance computed it meanwhile.
    Elsewhere,
    /// By this flight.
    Computed,
}

impl Answers {
    pub(super) async fn fly(self, ask: Ask, accept: Accept) -> Result<Found, ReadError> {
        let is_good = |kept: &Kept| {
            let is_usable = matches!(self.worth(&ask, kept), Worth::Fresh | Worth::Ageing);
            match accept {
                Accept::Usable => is_usable,
                Accept::NewerThan(computed_ms) => is_usable && kept.computed_ms > computed_ms,
            }
        };
        // A flight may have landed between this reader's look and its take-off.
        if let Some(kept) = self.memory.get(&ask.key).filter(|kept| is_good(kept)) {
            return Ok(Found { kept, origin: Origin::Remembered });
        }
        if let Some(error) = self.refusals.of(&ask.key, ask.stamp, (self.clock)()) {
            return Err(error);
        }
        let Some(locks) = self.fleet(&ask) else { return self.compute(&ask, None).await };
        let known = locks.shared.get(&ask.key, &ask.redis_time).await;
        let worth = known.as_ref().ok().and_then(Option::as_ref).map(|kept| self.worth(&ask, kept));
        self.metrics.looked_up(Layer::Redis, Worth::lookup(worth));
        match known {
            Ok(Some(kept)) if is_good(&kept) => return Ok(self.found(&ask, kept, Origin::Remembered)),
            Ok(_) => {}
            Err(Away) => return self.compute(&ask, None).await,
        }
        match locks.turn(&ask, is_good).await {
            Turn::Found(kept) => Ok(self.found(&ask, kept, Origin::Elsewhere)),
            Turn::Lead(lease) => self.compute(&ask, Some(*lease)).await,
            Turn::Alone => self.compute(&ask, None).await,
        }
    }

    fn found(&self, ask: &Ask, kept: Kept, origin: Origin) -> Found {
        let kept = Arc::new(kept);
        self.remember(ask, &kept);
        Found { kept, origin }
    }

    pub(super) async fn compute(&self, ask: &Ask, lease: Option<Lease>) -> Result<Found, ReadError> {
        let began_ms = (self.clock)();
        let computing = (ask.wanted.recipe)(ask.redis_time.clone());
        let rendered = match &lease {
            Some(lease) => lease.during(computing).await,
            None => computing.await,
        };
        let outcome = rendered.as_ref().map(drop).map_err(|error| *error);
        self.refusals.tried(&ask.key, ask.stamp, outcome, (self.clock)());
        let rendered = rendered.inspect_err(|error| {
            if let Some(reason) = StaleReason::of(error) {
                self.troubles.insert(ask.wanted.around.span, Trouble { reason, at: Instant::now() });
            }
        })?;
        // Parts of which nobody could say whether they are right count as all others.
        let read_ms = match ask.kind {
            Kind::Closed => began_ms,
            Kind::Realtime | Kind::Open if ask.stamp.days != DaysStamp::Unknown => rendered.seen_ms.unwrap_or(began_ms),
            Kind::Realtime | Kind::Open | Kind::Unversioned => rendered.oldest_ms.unwrap_or(began_ms),
        };
        let kept = Arc::new(Kept {
            body: pack(rendered.head).await?,
            etag: rendered.etag,
            computed_ms: began_ms,
            oldest_ms: rendered.oldest_ms.unwrap_or(began_ms),
            ends: self.policy.ends(ask.kind, read_ms.min(began_ms), (self.random)()),
            days: ask.stamp.days,
        });
        self.troubles.invalidate(&ask.wanted.around.span);
        self.remember(ask, &kept);
        if let Some(lease) = lease {
            // Beside the answer, not before it: nobody waits for Redis to have written.
            let (written, now_ms) = (Arc::clone(&kept), (self.clock)());
            tokio::spawn(async move { lease.publish(&written, now_ms).await });
        }
        Ok(Found { kept, origin: Origin::Computed })
    }

    fn remember(&self, ask: &Ask, kept: &Arc<Kept>) {
        self.memory.put(ask.key.clone(), Arc::clone(kept), (self.clock)());
        for around in ask.wanted.around.own() {
            self.last.insert(around, ask.key.clone());
        }
    }
}

async fn pack(head: bytes::Bytes) -> Result<Packed, ReadError> {
    beside(head.len(), move || Packed::of(&head)).await.ok_or(ReadError::Failed)
}
