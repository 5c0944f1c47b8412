//! The way to an answer through all layers: memory, then one flight that looks in Redis and at last computes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::flight::{Flights, Role};
use super::{Entry, Key, Memory, Shared};
use crate::Clock;
use crate::metrics::{Layer, Metrics};
use crate::render::Rendered;
use crate::serve::CacheStatus;
use crate::store::ReadError;

/// All layers. Clones share them.
#[derive(Clone)]
pub struct Answers {
    /// In this process.
    pub memory: Memory,
    /// In Redis, when configured.
    pub shared: Option<Arc<Shared>>,
    /// Computations under way.
    pub flights: Flights<Key, Result<Found, ReadError>>,
    /// Counts what happens.
    pub metrics: Metrics,
    /// The present.
    pub clock: Clock,
}

/// What a flight brought.
#[derive(Debug, Clone)]
pub struct Found {
    entry: Arc<Entry>,
    remembered: bool,
}

impl Answers {
    /// The answer under `key`; if nobody has it, `compute` makes it and it is remembered for `ttl`.
    pub async fn get<F>(
        &self,
        key: Key,
        ttl: Duration,
        compute: impl FnOnce() -> F,
    ) -> Result<(Arc<Entry>, CacheStatus), ReadError>
    where
        F: Future<Output = Result<Rendered, ReadError>> + Send + 'static,
    {
        let remembered = self.memory.get(&key, (self.clock)());
        self.metrics.looked_up(Layer::Memory, remembered.is_some());
        if let Some(entry) = remembered {
            return Ok((entry, CacheStatus::Hit));
        }
        let flight = || self.clone().fly(key.clone(), ttl, compute());
        let (role, found) = self.flights.join(key.clone(), flight).await;
        let found = found.map_err(|_| ReadError::Failed)??;
        let status = match (found.remembered, role) {
            (true, _) => CacheStatus::Hit,
            (false, Role::Leader) => CacheStatus::Miss,
            (false, Role::Follower) => CacheStatus::Coalesced,
        };
        if status == CacheStatus::Coalesced {
            self.metrics.coalesced();
        }
        Ok((found.entry, status))
    }

    async fn fly(
        self,
        key: Key,
        ttl: Duration,
        compute: impl Future<Output = Result<Rendered, ReadError>>,
    ) -> Result<Found, ReadError> {
        let began_ms = (self.clock)();
        // A flight may have landed between this reader's look and its take-off.
        if let Some(entry) = self.memory.get(&key, began_ms) {
            return Ok(Found { entry, remembered: true });
        }
        if let Some(entry) = self.in_redis(&key, began_ms).await {
            self.memory.put(key, Arc::clone(&entry));
            return Ok(Found { entry, remembered: true });
        }
        let rendered = compute.await?;
        let expires_ms = (self.clock)().saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let entry = Arc::new(Entry { head: rendered.head, etag: rendered.etag, computed_ms: began_ms, expires_ms });
        self.memory.put(key.clone(), Arc::clone(&entry));
        self.remember_in_redis(key, Arc::clone(&entry));
        Ok(Found { entry, remembered: false })
    }

    async fn in_redis(&self, key: &Key, now_ms: i64) -> Option<Arc<Entry>> {
        let entry = self.shared.as_ref()?.get(key, now_ms).await;
        self.metrics.looked_up(Layer::Redis, entry.is_some());
        entry.map(Arc::new)
    }

    /// Beside the answer, not before it: nobody waits for Redis to have written.
    fn remember_in_redis(&self, key: Key, entry: Arc<Entry>) {
        if let Some(shared) = self.shared.clone() {
            let now_ms = (self.clock)();
            tokio::spawn(async move { shared.put(&key, &entry, now_ms).await });
        }
    }
}
