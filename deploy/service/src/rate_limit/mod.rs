//! Rate limits: how many requests, questions and events are taken, of whom.
//!
//! ```text
//! a request  -> its address (a /64 network of IPv6): 1,000 a minute, before anybody is authenticated; administrative routes besides
//!            -> its key or person: questions a minute, by tier
//!            -> its key: events a day, by tier; is one left? -> the body is read and decoded -> its events are counted, and what does
//!               not fit is refused by index -> what was not taken after all is given back
//! ```
//!
//! A token bucket per caller, kind and service: it holds a burst and fills steadily, so within any period at most limit + burst. Kinds do not
//! share buckets, nor do the two services: events starve no dashboard.
//!
//! With Redis a bucket is there, and a process borrows tokens in leases (`lease.lua`, one key, Redis's clock). A request waits for Redis when
//! more is needed than its process holds: the first of a caller, the first after its lease ended, a batch that is larger than the lease,
//! and those at the edge of an empty bucket. An exchange takes at most 100 ms, and a request is part of four at most. Exact: a token is lent to one process, leases end after 10 s, and
//! what is in the bucket and what is lent is together never more than the burst. The price is that some tokens lie in the lease
//! of a process that does not need them: at most an eighth of what the bucket had, mostly a few, and for 10 s. `X-RateLimit-Remaining`
//! is what the process has borrowed and what Redis had left at its last exchange: too high by what others took since.
//!
//! Failure cases:
//! * Redis is away, slow or full: each process has a bucket of its own, with the limit divided by the number of instances
//!   (`RATE_LIMIT_INSTANCES`, else as many as Redis last counted, also before a restart of the process: that is in a file). It begins with its
//!   share of what Redis had left, which is looked at every 5 s for the 256 addresses and the 256 keys and persons that asked last, within 10 minutes. What it admits is
//!   owed, and taken off when Redis is back. So an outage admits what was left, once; of callers whose last tokens others took within these 5 s,
//!   that asked this instance long ago, or that came first during the outage, up to a burst more. Redis that comes and goes fills nothing.
//! * Redis loses its data, or fails over before it copied a lease: a bucket begins with the least that the processes know of it, each as it
//!   comes, and what came since. What nobody knows begins full; at most a burst more;
//! * clocks: those of instances do not count. Redis's clock that jumps forward fills buckets, to their burst at most; one that goes back
//!   fills nothing until it passes the time of the last exchange from then on;
//! * a process is killed: what it had borrowed fills up again;
//! * callers without end: tables are bounded (`table.rs`), keys in Redis expire when their bucket is full (one that fills in more than a hundred
//!   years, or never, after these).
//!
//! Decided: a request is charged before its body is read, and not given back. Events are charged after they are decoded and found valid, and
//! before they are written down. Rejected events cost nothing. What the log does not take, what is not confirmed because it was never
//! attempted, and what the local log knows as duplicates is given back; duplicates that are found later, behind Kafka, are not.

mod account;
mod address;
mod answer;
mod bucket;
mod buckets;
mod exchange;
mod rule;
mod table;
mod telemetry;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use axum::http::request::Parts;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::address::{NOBODY, of_client};
use self::answer::seconds;
use self::buckets::{Ask, Buckets, Caller};
use self::exchange::Exchange;
use self::telemetry::Outcome;
use crate::health::{Health, Status};
use crate::private_file;
use crate::redis::{OpenError, Pool, RedisUrl};

pub use self::address::{Network, Peer, ProxyHeader, TrustedProxies};
pub use self::answer::{Refused, RetryAfter, Standing, complete};
pub use self::rule::{Kind, LimitsOf, Priority, Rule, Stress, Tier};
pub use self::telemetry::RateLimitMetrics;

/// How often instances are counted and idle callers forgotten.
const TEND_EVERY: Duration = Duration::from_secs(5);

/// How long giving leases back may take at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// How long a count waits for the disk: three that are missed, and the instance is taken for gone.
const REMEMBER_WITHIN: Duration = Duration::from_secs(1);

/// The component of `/health`.
const COMPONENT: &str = "rate_limits";

/// What is done with who sends too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Enforce,
    /// Counted and told in headers, and never refused.
    Report,
    Off,
}

impl std::str::FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "report" => Ok(Self::Report),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

/// The limits of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitSettings {
    pub mode: Mode,
    /// Requests of an address.
    pub requests: Rule,
    /// Of these, to administrative routes.
    pub admin: Rule,
    pub proxies: TrustedProxies,
    /// How many instances share the limits while Redis is away; `None`: as many as Redis last counted.
    pub instances: Option<u64>,
    /// The data folder, where their number is remembered: a process that starts while Redis is away goes on as one of as many.
    pub data: Option<PathBuf>,
}

impl RateLimitSettings {
    /// Nobody is limited: for tests and benchmarks of something else.
    pub fn off() -> Self {
        Self {
            mode: Mode::Off,
            requests: Rule::per_minute(1_000),
            admin: Rule::per_minute(120),
            proxies: TrustedProxies::default(),
            instances: None,
            data: None,
        }
    }
}

/// Who asks, with credentials that were verified.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// Whose data; empty of an operator.
    project: &'a str,
    /// A person may be named as a key is.
    kind: &'static str,
    subject: &'a str,
}

/// The rate limits of a service. Clones share them.
#[derive(Clone)]
pub struct RateLimits(Arc<Inner>);

struct Inner {
    settings: RateLimitSettings,
    buckets: Arc<Buckets>,
    metrics: RateLimitMetrics,
    stress: AtomicU8,
    /// Where the number of instances is remembered.
    file: Option<PathBuf>,
}

/// What of the number of instances is on the disk.
#[derive(Default)]
struct Remembering {
    instances: Option<u64>,
    /// The number that is being written.
    write: Option<(u64, JoinHandle<io::Result<()>>)>,
    has_warned: bool,
}

impl Remembering {
    fn warn(&mut self, problem: &str) {
        if !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                problem,
                "the number of instances is not remembered; a start without Redis goes on with an older one"
            );
        }
    }
}

/// Events that were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many of them may be taken, from the first on.
    pub fits: u64,
    /// When the others may come; `None` when all fit.
    pub refused: Option<Refused>,
    pub standing: Option<Standing>,
    /// What each took of the bucket, and all of them: fewer, where they were taken though they did not fit.
    cost: u64,
    taken: u64,
}

impl Counted {
    const fn all(events: u64) -> Self {
        Self { fits: events, refused: None, standing: None, cost: 0, taken: 0 }
    }
}

impl RateLimits {
    /// Of a service, whose name is part of the buckets' names. With the URL of a Redis its instances share them.
    pub fn new(
        service: &'static str,
        settings: RateLimitSettings,
        redis: Option<&RedisUrl>,
        metrics: RateLimitMetrics,
    ) -> Result<Self, OpenError> {
        let is_shared = settings.mode != Mode::Off;
        let exchange = redis.filter(|_| is_shared).map(Exchange::new).transpose()?;
        metrics.local(is_shared && exchange.is_none());
        let remembers = exchange.is_some() && settings.instances.is_none();
        let file = settings
            .data
            .as_ref()
            .filter(|_| remembers)
            .map(|data| data.join(format!("rate-limit-instances-{service}")));
        let remembered = || fs::read_to_string(file.as_ref()?).ok()?.trim().parse().ok();
        let instances = settings.instances.or_else(remembered).unwrap_or(1);
        let buckets = Arc::new(Buckets::new(service, exchange, instances, metrics.clone()));
        Ok(Self(Arc::new(Inner { settings, buckets, metrics, stress: AtomicU8::new(0), file })))
    }

    /// A disk that hangs does not hold up the count for long: a write that is late goes on, and none is begun beside it.
    async fn remember(&self, remembering: &mut Remembering) {
        let (Some(file), instances) = (self.0.file.clone(), self.instances()) else { return };
        if remembering.write.is_none() && remembering.instances != Some(instances) {
            let write = tokio::task::spawn_blocking(move || private_file::write(&file, &format!("{instances}\n")));
            remembering.write = Some((instances, write));
        }
        let Some((instances, write)) = &mut remembering.write else { return };
        let problem = match tokio::time::timeout(REMEMBER_WITHIN, write).await {
            Err(_) => return remembering.warn(&format!("the disk takes longer than {REMEMBER_WITHIN:?}")),
            Ok(Ok(Ok(()))) => {
                remembering.instances = Some(*instances);
                None
            }
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
        };
        remembering.write = None;
        if let Some(problem) = problem {
            remembering.warn(&problem);
        }
    }

    /// Connections to the Redis in which instances share them.
    pub fn redis(&self) -> Option<Pool> {
        self.0.buckets.redis()
    }

    /// Nobody is limited, and nothing is counted.
    pub fn off() -> prometheus::Result<Self> {
        let metrics = RateLimitMetrics::unregistered()?;
        let buckets = Arc::new(Buckets::new("off", None, 1, metrics.clone()));
        let settings = RateLimitSettings::off();
        Ok(Self(Arc::new(Inner { settings, buckets, metrics, stress: AtomicU8::new(0), file: None })))
    }

    /// Charges a request to its address, before anything else is done with it.
    pub async fn admit_address(&self, head: &Parts, is_admin: bool) -> Result<Option<Standing>, Refused> {
        if self.is_off() {
            return Ok(None);
        }
        let peer = head.extensions.get::<Peer>().map_or(NOBODY, |Peer(address)| *address);
        let address = self.0.settings.proxies.client(peer, &head.headers);
        let standing = self.admit_request_of(Kind::Address, address, self.0.settings.requests).await?;
        match is_admin {
            true => self.admit_request_of(Kind::Admin, address, self.0.settings.admin).await,
            false => Ok(standing),
        }
    }

    async fn admit_request_of(&self, kind: Kind, address: IpAddr, rule: Rule) -> Result<Option<Standing>, Refused> {
        let bytes = match of_client(address) {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        self.admit_one(&Caller { kind, names: [&bytes, &[], &[]] }, rule).await
    }

    /// Charges a question to who asks it.
    pub async fn admit_query(&self, holder: Holder<'_>, limits: &LimitsOf) -> Result<Option<Standing>, Refused> {
        match limits.queries.filter(|_| !self.is_off()) {
            Some(rule) => self.admit_one(&holder.caller(Kind::Queries), rule).await,
            None => Ok(None),
        }
    }

    async fn admit_one(&self, caller: &Caller<'_>, rule: Rule) -> Result<Option<Standing>, Refused> {
        let taken = self.0.buckets.ask(caller, rule, Ask::Take(1)).await;
        let standing = Standing::new(caller.kind, &rule, taken.left);
        if taken.tokens > 0 {
            self.0.metrics.decided(caller.kind, Outcome::Admitted, 1);
            return Ok(Some(standing));
        }
        self.refuse(standing, taken.wait, 1).map(Some)
    }

    /// Whether a sender may send at all: before the body of its request is read. Nothing is charged.
    pub async fn admit_sender(&self, holder: Holder<'_>, limits: &LimitsOf) -> Result<Option<Standing>, Refused> {
        if self.is_off() {
            return Ok(None);
        }
        let rule = limits.events.unwrap_or(Rule::per_day(0));
        if self.stress().cost(limits.priority).is_none() {
            return self.refuse_for_stress(Standing::new(Kind::Events, &rule, 0), 1).map(Some);
        }
        let Some(rule) = limits.events else { return Ok(None) };
        let caller = holder.caller(Kind::Events);
        let looked = self.0.buckets.ask(&caller, rule, Ask::Look).await;
        let standing = Standing::new(Kind::Events, &rule, looked.left);
        if looked.tokens > 0 {
            return Ok(Some(standing));
        }
        // Nothing was read, so nobody knows how many events it would have been.
        self.refuse(standing, looked.wait, 1).map(Some)
    }

    /// Charges events, as many as fit.
    pub async fn count_events(&self, holder: Holder<'_>, limits: &LimitsOf, events: u64) -> Counted {
        if self.is_off() {
            return Counted::all(events);
        }
        let Some(cost) = self.stress().cost(limits.priority) else {
            let rule = limits.events.unwrap_or(Rule::per_day(0));
            let refused = self.refuse_for_stress(Standing::new(Kind::Events, &rule, 0), events).err();
            return Counted { fits: if refused.is_some() { 0 } else { events }, refused, ..Counted::all(events) };
        };
        let Some(rule) = limits.events else { return Counted::all(events) };
        let caller = holder.caller(Kind::Events);
        let taken = self.0.buckets.ask(&caller, rule, Ask::Take(events.saturating_mul(cost))).await;
        let fits = taken.tokens / cost;
        // What is not enough for one more.
        let (rest, standing) = (taken.tokens % cost, Standing::new(Kind::Events, &rule, taken.left));
        if rest > 0 {
            self.0.buckets.put_back(&caller, rule, rest);
        }
        self.0.metrics.decided(Kind::Events, Outcome::Admitted, fits);
        let counted = Counted { fits, refused: None, standing: Some(standing), cost, taken: fits * cost };
        if fits == events {
            return counted;
        }
        match self.refuse(standing, taken.wait, events - fits) {
            Ok(_) => Counted { fits: events, ..counted },
            Err(refused) => Counted { refused: Some(refused), ..counted },
        }
    }

    /// Gives back events that were counted and not taken after all.
    pub fn give_back(&self, holder: Holder<'_>, limits: &LimitsOf, counted: &Counted, events: u64) {
        let tokens = events.saturating_mul(counted.cost).min(counted.taken);
        if let (Some(rule), 1..) = (limits.events, tokens) {
            self.0.buckets.put_back(&holder.caller(Kind::Events), rule, tokens);
        }
    }

    fn refuse(&self, standing: Standing, wait: Duration, count: u64) -> Result<Standing, Refused> {
        self.refused(Refused { standing, retry_after_s: seconds(wait), is_stress: false }, count)
    }

    fn refuse_for_stress(&self, standing: Standing, count: u64) -> Result<Standing, Refused> {
        self.refused(Refused { standing, retry_after_s: 2, is_stress: true }, count)
    }

    fn refused(&self, refused: Refused, count: u64) -> Result<Standing, Refused> {
        let kind = refused.standing.kind;
        if self.0.settings.mode == Mode::Report {
            self.0.metrics.decided(kind, Outcome::Reported, count);
            return Ok(refused.standing);
        }
        self.0.metrics.decided(kind, Outcome::Refused, count);
        Err(refused)
    }

    /// Tightens limits, or loosens them again.
    pub fn set_stress(&self, stress: Stress) {
        let level = match stress {
            Stress::Calm => 0,
            Stress::High => 1,
            Stress::Severe => 2,
        };
        self.0.stress.store(level, Ordering::Relaxed);
        self.0.metrics.stress(level.into());
    }

    fn stress(&self) -> Stress {
        match self.0.stress.load(Ordering::Relaxed) {
            0 => Stress::Calm,
            1 => Stress::High,
            _ => Stress::Severe,
        }
    }

    /// How many instances are counted, this one included.
    pub fn instances(&self) -> u64 {
        self.0.buckets.instances()
    }

    pub fn is_off(&self) -> bool {
        self.0.settings.mode == Mode::Off
    }

    /// Counts the instances, forgets idle callers and says how it is, until `stop`; then gives back what it borrowed.
    pub async fn tend(&self, health: &Health, stop: CancellationToken) {
        if self.is_off() {
            return;
        }
        let (id, is_given) = (format!("{:016x}", rand::random::<u64>()), self.0.settings.instances.is_some());
        let is_shared = AtomicBool::new(false);
        // However long others take to hand over: who is counted late is taken for gone.
        let count = async {
            let mut remembering = Remembering::default();
            while !stop.is_cancelled() {
                let counted = self.0.buckets.count_instances(&id, is_given).await;
                is_shared.store(counted, Ordering::Relaxed);
                if counted {
                    self.remember(&mut remembering).await;
                }
                self.tell(health, counted);
                stop.run_until_cancelled(tokio::time::sleep(TEND_EVERY)).await;
            }
        };
        let tidy = async {
            while !stop.is_cancelled() {
                self.0.buckets.tidy(is_shared.load(Ordering::Relaxed), &stop).await;
                stop.run_until_cancelled(tokio::time::sleep(TEND_EVERY)).await;
            }
        };
        tokio::join!(count, tidy);
        if tokio::time::timeout(CLOSE_WITHIN, self.0.buckets.close()).await.is_err() {
            tracing::debug!("leases of rate limits were not given back in time");
        }
    }

    fn tell(&self, health: &Health, is_shared: bool) {
        self.0.metrics.local(!is_shared);
        let instances = self.0.buckets.instances();
        match (self.0.buckets.is_shared(), is_shared) {
            (_, true) => health.set(COMPONENT, Status::Up, ""),
            (false, false) => {
                let detail = format!("counted by this instance alone, as one of {instances}: REDIS_URL is not set");
                health.set(COMPONENT, Status::Up, detail);
            }
            (true, false) => {
                let detail = format!("Redis does not answer: counted by this instance alone, as one of {instances}");
                health.set(COMPONENT, Status::Degraded, detail);
            }
        }
    }
}

impl<'a> Holder<'a> {
    /// A key, by its id.
    pub const fn key(project: &'a str, id: &'a str) -> Self {
        Self { project, kind: "key", subject: id }
    }

    /// A person.
    pub const fn user(project: &'a str, name: &'a str) -> Self {
        Self { project, kind: "user", subject: name }
    }

    const fn caller(self, kind: Kind) -> Caller<'a> {
        Caller { kind, names: [self.project.as_bytes(), self.kind.as_bytes(), self.subject.as_bytes()] }
    }
}

#[cfg(test)]
mod tests;
