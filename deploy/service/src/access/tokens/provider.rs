//! What is known of a provider: its last set of keys, and when it was asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Checks;
use super::fetch::Fetch;
use super::key_set::{KeySet, Verifier};
use crate::access::denied::Denied;
use crate::access::telemetry::{AccessMetrics, KeyFetch};

/// When a provider is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// After this time a set is fetched again; the old one is used meanwhile.
    pub(super) refresh: Duration,
    /// Between the end of a fetch and the next one.
    pub(super) pause: Duration,
    /// How long a fetch may take, and whoever needs what it brings waits.
    pub(super) within: Duration,
}

pub(super) const PACE: Pace =
    Pace { refresh: Duration::from_secs(600), pause: Duration::from_secs(5), within: Duration::from_secs(5) };

pub(super) struct Provider {
    fetch: Fetch,
    pace: Pace,
    checks: Checks,
    keys: ArcSwapOption<KeySet>,
    fetches: Mutex<Fetches>,
    metrics: AccessMetrics,
}

#[derive(Default)]
struct Fetches {
    ended: Option<Instant>,
    succeeded: Option<Instant>,
    /// The last one failed; it was logged.
    has_failed: bool,
    /// Open while one runs.
    running: Option<watch::Receiver<()>>,
}

impl Provider {
    pub(super) fn new(fetch: Fetch, pace: Pace, checks: Checks, metrics: AccessMetrics) -> Self {
        Self { fetch, pace, checks, keys: ArcSwapOption::empty(), fetches: Mutex::default(), metrics }
    }

    fn fetches(&self) -> MutexGuard<'_, Fetches> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of that id. One that is not known is fetched once, with everybody who waits for it.
    pub(super) async fn key(self: &Arc<Self>, id: Option<&str>) -> Result<Arc<Verifier>, Denied> {
        if let Some(found) = self.known(id) {
            let is_old = self.fetches().succeeded.is_none_or(|at| at.elapsed() >= self.pace.refresh);
            if is_old {
                self.begin();
            }
            return Ok(found);
        }
        let has_ended = match self.begin() {
            Some(running) => self.wait_for(running).await,
            None => true,
        };
        if let Some(found) = self.known(id) {
            return Ok(found);
        }
        let is_up_to_date = has_ended && self.keys.load().is_some() && !self.fetches().has_failed;
        Err(match is_up_to_date {
            true => Denied::InvalidToken("the identity provider does not publish the key that signed it"),
            false => Denied::ProviderAway,
        })
    }

    /// Whether it ended, which it says by closing.
    async fn wait_for(&self, mut running: watch::Receiver<()>) -> bool {
        let ended = async { while running.changed().await.is_ok() {} };
        tokio::time::timeout(self.pace.within, ended).await.is_ok()
    }

    fn known(&self, id: Option<&str>) -> Option<Arc<Verifier>> {
        self.keys.load().as_ref()?.find(id).cloned()
    }

    /// Begins a fetch, or joins the one that runs; nothing when the last one ended just now. It goes on when a caller goes away, or callers that
    /// do could keep a new key from all others.
    fn begin(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let mut fetches = self.fetches();
        if let Some(running) = fetches.running.as_ref().filter(|running| running.has_changed().is_ok()) {
            return Some(running.clone());
        }
        if fetches.ended.is_some_and(|ended| ended.elapsed() < self.pace.pause) {
            return None;
        }
        let (ends, running) = watch::channel(());
        fetches.running = Some(running.clone());
        drop(fetches);
        let provider = Arc::clone(self);
        tokio::spawn(async move {
            provider.refresh().await;
            drop(ends);
        });
        Some(running)
    }

    /// Returns whether the one before failed.
    fn ended(&self, has_failed: bool) -> bool {
        let mut fetches = self.fetches();
        fetches.ended = Some(Instant::now());
        std::mem::replace(&mut fetches.has_failed, has_failed)
    }

    async fn refresh(&self) {
        let fetched = self.fetch.get().await.map_err(|error| error.to_string());
        let parsed = fetched.and_then(|body| KeySet::parse(&body, &self.checks).map_err(|error| error.to_string()));
        let had_failed = self.ended(parsed.is_err());
        match parsed {
            Ok(set) => {
                self.metrics.fetched(KeyFetch::Taken);
                if had_failed {
                    tracing::info!(keys = set.len(), "the identity provider's keys are read again");
                }
                self.keys.store(Some(Arc::new(set)));
                self.fetches().succeeded = Some(Instant::now());
            }
            Err(problem) => {
                self.metrics.fetched(KeyFetch::Failed);
                if !had_failed {
                    tracing::error!(problem, "JWKS_URL: the keys were not taken; those that are known stay");
                }
            }
        }
    }
}
