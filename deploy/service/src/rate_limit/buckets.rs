//! Takes tokens for callers: from leases of Redis, or from local buckets.
//!
//! ```text
//! ask  -> lent tokens suffice, or the bucket is known to be empty      -> at once; nearly used up: an exchange begins beside
//!      -> else one exchange for all who wait                           -> again, with what came
//!      -> Redis is away, or there is none                              -> a local bucket of this instance's share
//! ```

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::account::{Account, Handed, Landing, LeaseRequest, Taken};
use super::exchange::{Away, Exchange, WITHIN};
use super::rule::{Kind, Rule};
use super::table::Table;
use super::telemetry::{LeaseOutcome, RateLimitMetrics};
use crate::redis::Pool;

/// Whoever finds what came taken by others asks again, so often; then it is given what is there.
const ATTEMPTS: usize = 4;

/// So many hand over at once: connections are left to requests that wait.
const AT_ONCE: usize = 4;

/// How long fewer instances have to be counted; an instance counts every 5 s.
const FEWER_AFTER: Duration = Duration::from_secs(15);

/// Between two looks at exchanges that are under way when the process ends.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Who is counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) kind: Kind,
    /// Together they are one caller.
    pub(super) names: [&'a [u8]; 3],
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    Take(u64),
    /// Whether there is one.
    Look,
}

impl Ask {
    const fn needs(self) -> u64 {
        match self {
            Self::Take(want) => want,
            Self::Look => 1,
        }
    }
}

pub(super) struct Buckets {
    service: &'static str,
    addresses: Table,
    callers: Table,
    hasher: RandomState,
    exchange: Option<Arc<Exchange>>,
    /// How many share what is counted while Redis is away.
    instances: AtomicU64,
    /// Since when fewer are counted.
    fewer_since: Mutex<Option<Instant>>,
    metrics: RateLimitMetrics,
}

/// What has to be done before tokens can be had.
enum Step {
    Taken(Taken, Option<Launch>),
    Wait(watch::Receiver<Landing>, Option<Launch>),
}

type Launch = (LeaseRequest, watch::Sender<Landing>);

impl Buckets {
    pub(super) fn new(
        service: &'static str,
        exchange: Option<Exchange>,
        instances: u64,
        metrics: RateLimitMetrics,
    ) -> Self {
        Self {
            service,
            addresses: Table::default(),
            callers: Table::default(),
            hasher: RandomState::new(),
            exchange: exchange.map(Arc::new),
            instances: AtomicU64::new(instances.max(1)),
            fewer_since: Mutex::default(),
            metrics,
        }
    }

    pub(super) fn redis(&self) -> Option<Pool> {
        self.exchange.as_ref().map(|exchange| exchange.pool())
    }

    /// Takes tokens, as many as there are and at most so many; or only looks.
    pub(super) async fn ask(self: &Arc<Self>, caller: &Caller<'_>, rule: Rule, ask: Ask) -> Taken {
        let hash = self.hash(caller);
        let Some(exchange) = &self.exchange else { return self.ask_local(caller.kind, hash, rule, ask) };
        for _ in 0..ATTEMPTS {
            match self.step(caller, hash, rule, ask) {
                Step::Taken(taken, launch) => {
                    if let Some(launch) = launch {
                        self.launch(exchange, caller.kind, hash, launch);
                    }
                    return taken;
                }
                Step::Wait(landing, launch) => {
                    if let Some(launch) = launch {
                        if !exchange.is_open() {
                            self.metrics.lease(LeaseOutcome::Avoided);
                            self.of(caller.kind).with_known(hash, |account| account.not_sent(&launch.0));
                            return self.ask_local(caller.kind, hash, rule, ask);
                        }
                        self.launch(exchange, caller.kind, hash, launch);
                    }
                    if !has_landed(landing).await {
                        return self.ask_local(caller.kind, hash, rule, ask);
                    }
                }
            }
        }
        // Others were quicker each time.
        self.with(caller.kind, hash, rule, |account, now| match ask {
            Ask::Take(want) => account.take_what_is_lent(want, now),
            Ask::Look => account.take_what_is_lent(0, now),
        })
    }

    /// Gives back what was taken and not used.
    pub(super) fn put_back(&self, caller: &Caller<'_>, rule: Rule, tokens: u64) {
        let instances = self.instances();
        self.with(caller.kind, self.hash(caller), rule, |account, _| account.give_back(tokens, instances));
    }

    fn step(&self, caller: &Caller<'_>, hash: u64, rule: Rule, ask: Ask) -> Step {
        let name = || self.name(caller);
        let there = |account: &mut Account, now| match ask {
            Ask::Take(want) => account.take_lent(want, now),
            Ask::Look => account.look_at_lent(now),
        };
        self.with(caller.kind, hash, rule, |account, now| match there(account, now) {
            Some(taken) => {
                let launch = account.wants_more(now).then(|| account.ask(0, name));
                Step::Taken(taken, launch)
            }
            None => match account.flight() {
                Some(landing) => Step::Wait(landing, None),
                None => {
                    let launch = account.ask(ask.needs(), name);
                    Step::Wait(launch.1.subscribe(), Some(launch))
                }
            },
        })
    }

    /// An exchange goes on when nobody waits for it any more: what it brings is for the next.
    fn launch(self: &Arc<Self>, exchange: &Arc<Exchange>, kind: Kind, hash: u64, (request, landing): Launch) {
        let (buckets, exchange) = (Arc::clone(self), Arc::clone(exchange));
        exchange.runtime().spawn(async move {
            let reply = exchange.lease(&request).await;
            let landed = match reply {
                Ok(reply) => {
                    let is_empty = reply.lent.tokens < request.needed;
                    buckets.metrics.lease(if is_empty { LeaseOutcome::Empty } else { LeaseOutcome::Granted });
                    buckets.of(kind).with_known(hash, |account| account.landed(&request, reply, Instant::now()));
                    Landing::Done
                }
                Err(Away::Failed) => {
                    buckets.metrics.lease(LeaseOutcome::Failed);
                    buckets.of(kind).with_known(hash, |account| {
                        buckets.metrics.debt_dropped(account.failed(&request));
                    });
                    Landing::Failed
                }
                Err(Away::Unreached) => {
                    buckets.metrics.lease(LeaseOutcome::Failed);
                    buckets.of(kind).with_known(hash, |account| account.not_sent(&request));
                    Landing::Failed
                }
                Err(Away::Avoided) => {
                    buckets.metrics.lease(LeaseOutcome::Avoided);
                    buckets.of(kind).with_known(hash, |account| account.not_sent(&request));
                    Landing::Failed
                }
            };
            landing.send_replace(landed);
        });
    }

    fn ask_local(&self, kind: Kind, hash: u64, rule: Rule, ask: Ask) -> Taken {
        let (instances, is_owed) = (self.instances(), self.exchange.is_some());
        self.with(kind, hash, rule, |account, now| match ask {
            Ask::Take(want) => account.take_local(want, instances, is_owed, now),
            Ask::Look => account.look_at_local(instances, now),
        })
    }

    fn with<T>(&self, kind: Kind, hash: u64, rule: Rule, work: impl FnOnce(&mut Account, Instant) -> T) -> T {
        let now = Instant::now();
        let (done, forgotten) = self.of(kind).with(hash, rule, self.instances(), now, |account| work(account, now));
        self.metrics.forgotten(forgotten);
        done
    }

    /// A flood of addresses takes no key's place.
    fn of(&self, kind: Kind) -> &Table {
        match kind {
            Kind::Address | Kind::Admin => &self.addresses,
            Kind::Queries | Kind::Events => &self.callers,
        }
    }

    fn hash(&self, caller: &Caller<'_>) -> u64 {
        self.hasher.hash_one((caller.kind, caller.names))
    }

    /// In Redis: of a digest, which is told neither addresses nor people. The text in braces is the key's slot in a cluster.
    fn name(&self, caller: &Caller<'_>) -> Arc<str> {
        let [first, second, third] = caller.names;
        let digest = Sha256::new_with_prefix(first).chain_update([0]).chain_update(second).chain_update([0]);
        let digest = digest.chain_update(third).finalize();
        let id: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("tallyhouse:limit:{{{}:{}:{id}}}", self.service, caller.kind.name()).into()
    }

    pub(super) fn instances(&self) -> u64 {
        self.instances.load(Ordering::Relaxed)
    }

    /// Counts the instances in Redis, unless their number was `given`. Whether Redis answered.
    pub(super) async fn count_instances(&self, id: &str, is_given: bool) -> bool {
        let Some(exchange) = self.exchange.clone() else { return false };
        let list = format!("tallyhouse:limit:{{{}:instances}}", self.service);
        let id = id.to_owned();
        let runtime = exchange.runtime();
        let counted = runtime.spawn(async move { exchange.instances(&list, &id).await }).await;
        match counted {
            Ok(Ok(instances)) => {
                if !is_given {
                    self.counted(instances, Instant::now());
                }
                true
            }
            Ok(Err(Away::Unreached | Away::Failed | Away::Avoided)) | Err(_) => false,
        }
    }

    /// Fewer are believed only after a while: a Redis that was started again counts the others as they come.
    fn counted(&self, instances: u64, now: Instant) {
        let mut fewer_since = self.fewer_since.lock().unwrap_or_else(PoisonError::into_inner);
        if instances < self.instances() && now.saturating_duration_since(*fewer_since.get_or_insert(now)) < FEWER_AFTER
        {
            return;
        }
        *fewer_since = None;
        self.instances.store(instances.max(1), Ordering::Relaxed);
    }

    pub(super) fn is_shared(&self) -> bool {
        self.exchange.is_some()
    }

    /// Forgets callers whose loss changes nothing. While Redis is there, gives back leases that are over, and what is owed, until `stop`.
    pub(super) async fn tidy(&self, is_shared: bool, stop: &CancellationToken) {
        let (instances, now) = (self.instances(), Instant::now());
        for table in [&self.addresses, &self.callers] {
            let left_over = table.tidy(is_shared, instances, now);
            self.hand_over(table, left_over, stop).await;
        }
        self.metrics.buckets(self.addresses.len() + self.callers.len());
    }

    /// Gives everything back. Whoever calls it bounds the time.
    pub(super) async fn close(&self) {
        loop {
            let mut flights = 0;
            for table in [&self.addresses, &self.callers] {
                let (requests, under_way) = table.close();
                flights += under_way;
                self.hand_over(table, requests, &CancellationToken::new()).await;
            }
            if flights == 0 {
                return;
            }
            // What they bring is given back, too.
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Sends what accounts hand over, until `stop` or the first that Redis does not take. What it did not take is in the accounts again.
    /// What is owed is sent twice at most when nobody knows whether it was taken. What is given back and may have arrived is not given twice.
    async fn hand_over(&self, table: &Table, requests: Vec<(u64, LeaseRequest)>, stop: &CancellationToken) {
        let Some(exchange) = self.exchange.clone().filter(|_| !requests.is_empty()) else { return };
        let (runtime, stop, is_away) = (exchange.runtime(), stop.clone(), Arc::new(AtomicBool::new(false)));
        let owed: Vec<(u64, u64)> = requests.iter().map(|(caller, request)| (*caller, request.owed)).collect();
        let send = move |(caller, request): (u64, LeaseRequest)| {
            let (exchange, stop, is_away) = (Arc::clone(&exchange), stop.clone(), Arc::clone(&is_away));
            async move {
                if stop.is_cancelled() || is_away.load(Ordering::Relaxed) {
                    return (caller, request, Handed::Unsent, None);
                }
                let (handed, left) = match exchange.lease(&request).await {
                    Ok(reply) => (Handed::Taken, Some((reply.left, reply.sent))),
                    Err(Away::Failed) => (Handed::Unknown, None),
                    Err(Away::Unreached | Away::Avoided) => (Handed::Unsent, None),
                };
                is_away.fetch_or(handed != Handed::Taken, Ordering::Relaxed);
                (caller, request, handed, left)
            }
        };
        let sent = runtime.spawn(stream::iter(requests).map(send).buffer_unordered(AT_ONCE).collect::<Vec<_>>()).await;
        match sent {
            Ok(sent) => {
                for (caller, request, handed, left) in sent {
                    table.with_known(caller, |account| {
                        if let Some((left, sent)) = left {
                            account.learned(left, sent);
                        }
                        self.metrics.debt_dropped(account.handed_over(&request, handed));
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, callers = owed.len(), "handing over to Redis failed; what was owed is not taken off");
                for (caller, owed) in owed {
                    self.metrics.debt_dropped(owed);
                    table.with_known(caller, Account::hand_over_lost);
                }
            }
        }
    }
}

async fn has_landed(mut landing: watch::Receiver<Landing>) -> bool {
    let landed = landing.wait_for(|landing| *landing != Landing::UnderWay);
    let landed = tokio::time::timeout(2 * WITHIN, landed).await;
    landed.is_ok_and(|landed| landed.is_ok_and(|landing| *landing == Landing::Done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_that_are_missing_for_a_moment_are_still_counted() {
        let (buckets, start) =
            (Buckets::new("test", None, 3, RateLimitMetrics::unregistered().unwrap()), Instant::now());
        let counted = |instances, seconds| {
            buckets.counted(instances, start + Duration::from_secs(seconds));
            buckets.instances()
        };
        // Redis was started again: one after the other comes.
        assert_eq!([counted(1, 0), counted(2, 5), counted(3, 10), counted(4, 15)], [3, 3, 3, 4]);
        assert_eq!([counted(1, 20), counted(1, 34), counted(1, 35)], [4, 4, 1], "they are gone");
    }
}
