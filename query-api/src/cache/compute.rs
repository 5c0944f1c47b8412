//! One computation of single flight: look up once more, wait for the fleet, compute, cache, publish.

use std::sync::Arc;
use std::time::Instant;

use super::answers::{Answers, COME_BACK_S, CacheLookup, Trouble};
use super::compressed::{Compressed, beside};
use super::entry::{CachedAnswer, Freshness};
use super::lock::{FleetOutcome, Lease};
use super::shared::Away;
use super::stamp::DaysStamp;
use super::status::StaleReason;
use super::ttl::Kind;
use crate::store::ReadError;
use crate::telemetry::Layer;

/// Which cached answers are taken instead of computing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Accept {
    /// Any that may be given out.
    Usable,
    /// One computed after this instant.
    NewerThan(i64),
}

/// The result of single flight.
#[derive(Debug, Clone)]
pub(super) struct Obtained {
    pub(super) cached: Arc<CachedAnswer>,
    /// Where it came from.
    pub(super) origin: Origin,
}

/// Where a result came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Remembered,
    /// Another instance computed it meanwhile.
    Elsewhere,
    /// This process computed it.
    Computed,
}

impl Answers {
    pub(super) async fn find_or_compute(self, lookup: CacheLookup, accept: Accept) -> Result<Obtained, ReadError> {
        let is_good = |cached: &CachedAnswer| {
            let is_usable = matches!(self.freshness(&lookup, cached), Freshness::Fresh | Freshness::Ageing);
            match accept {
                Accept::Usable => is_usable,
                Accept::NewerThan(computed_ms) => is_usable && cached.computed_ms > computed_ms,
            }
        };
        // Another computation may have ended between this reader's look and the start of this one.
        if let Some(cached) = self.memory.get(&lookup.key).filter(|cached| is_good(cached)) {
            return Ok(Obtained { cached, origin: Origin::Remembered });
        }
        if let Some(error) = self.refusals.of(&lookup.key, lookup.stamp, (self.clock)()) {
            return Err(error);
        }
        let Some(locks) = self.fleet(&lookup) else { return self.compute(&lookup, None).await };
        let known = locks.shared.get(&lookup.key, &lookup.redis_time).await;
        let freshness = known.as_ref().ok().and_then(Option::as_ref).map(|cached| self.freshness(&lookup, cached));
        self.metrics.looked_up(Layer::Redis, Freshness::lookup(freshness));
        match known {
            Ok(Some(cached)) if is_good(&cached) => return Ok(self.found(&lookup, cached, Origin::Remembered)),
            Ok(_) => {}
            Err(Away) => return self.compute(&lookup, None).await,
        }
        match locks.acquire_or_wait(&lookup, is_good).await {
            FleetOutcome::Found(cached) => Ok(self.found(&lookup, cached, Origin::Elsewhere)),
            FleetOutcome::Lead(lease) => self.compute(&lookup, Some(*lease)).await,
            FleetOutcome::Alone => self.compute(&lookup, None).await,
            FleetOutcome::OutOfTime => Err(ReadError::OutOfTime { retry_after_s: COME_BACK_S }),
        }
    }

    fn found(&self, lookup: &CacheLookup, cached: CachedAnswer, origin: Origin) -> Obtained {
        let cached = Arc::new(cached);
        self.remember(lookup, &cached);
        Obtained { cached, origin }
    }

    pub(super) async fn compute(&self, lookup: &CacheLookup, lease: Option<Lease>) -> Result<Obtained, ReadError> {
        let began_ms = (self.clock)();
        let computing = (lookup.request.compute)(lookup.redis_time.clone(), lookup.request.deadline);
        let rendered = match &lease {
            Some(lease) => lease.during(computing).await,
            None => computing.await,
        };
        let outcome = rendered.as_ref().map(drop).map_err(|error| *error);
        self.refusals.tried(&lookup.key, lookup.stamp, outcome, (self.clock)());
        let rendered = rendered.inspect_err(|error| {
            if let Some(reason) = StaleReason::of(error) {
                self.troubles.insert(lookup.request.fallback.span, Trouble { reason, at: Instant::now() });
            }
        })?;
        // Parts of which nobody could say whether they are right count as all others.
        let read_ms = match lookup.kind {
            Kind::Closed => began_ms,
            Kind::Realtime | Kind::Open if lookup.stamp.days != DaysStamp::Unknown => {
                rendered.seen_ms.unwrap_or(began_ms)
            }
            Kind::Realtime | Kind::Open | Kind::Unversioned => rendered.oldest_ms.unwrap_or(began_ms),
        };
        let cached = Arc::new(CachedAnswer {
            body: pack(rendered.head).await?,
            etag: rendered.etag,
            computed_ms: began_ms,
            oldest_ms: rendered.oldest_ms.unwrap_or(began_ms),
            ends: self.policy.ends(lookup.kind, read_ms.min(began_ms), (self.random)()),
            days: lookup.stamp.days,
            is_partial: rendered.is_partial,
        });
        if cached.is_partial {
            // For who waits for it here. The next one may get the whole.
            return Ok(Obtained { cached, origin: Origin::Computed });
        }
        self.troubles.invalidate(&lookup.request.fallback.span);
        self.remember(lookup, &cached);
        if let Some(lease) = lease {
            // Beside the answer, not before it: nobody waits for Redis to have written.
            let (written, now_ms) = (Arc::clone(&cached), (self.clock)());
            tokio::spawn(async move { lease.publish(&written, now_ms).await });
        }
        Ok(Obtained { cached, origin: Origin::Computed })
    }

    fn remember(&self, lookup: &CacheLookup, cached: &Arc<CachedAnswer>) {
        self.memory.put(lookup.key.clone(), Arc::clone(cached), (self.clock)());
        for fallback in lookup.request.fallback.own() {
            self.last.insert(fallback, lookup.key.clone());
        }
    }
}

async fn pack(head: bytes::Bytes) -> Result<Compressed, ReadError> {
    beside(head.len(), move || Compressed::of(&head)).await.ok_or(ReadError::Failed)
}
