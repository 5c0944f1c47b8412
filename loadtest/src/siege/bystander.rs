//! Somebody else's load during the attacks: events that are remembered, dashboards, and the admin ports.
//!
//! Each request is due at a fixed time and is sent then, however long those before it take: what is not served shows. One that was
//! sent in a window counts for that window, whenever it is answered. Events that were not taken at once are sent again until they are, as an
//! SDK does; that is not counted, but the ledger needs to know what became of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::bench::quantiles::{Latencies, Quantiles};
use crate::client::{Client, ClientConfig, DeliveryError, Outgoing};
use crate::development::{INGEST_KEY, QUERY_KEY};
use crate::generate::{Facts, Generator, Spread};
use crate::ledger::Ledger;
use crate::reads::panels::{self, WEEK};
use crate::system::System;
use tallyhouse_service::http_client::{Endpoint, HttpError, Reply};

/// Served means: a success within.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// Longer than any attack.
const TAKEN_WITHIN: Duration = Duration::from_secs(180);

const EVENTS_PER_REQUEST: usize = 10;

/// Requests of one kind that wait for an answer; those beyond are not sent, and not served.
const UNDER_WAY: usize = 512;

const NOT_SENT: &str = "not sent: too many requests before it wait for an answer";

/// One in so many questions comes over a connection of its own, as a new visitor's does.
const NEW_VISITOR: u64 = 3;

/// One in so many questions has not been asked before.
const NEW_QUESTION: u64 = 8;

/// What the bystander does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ingest,
    Query,
    Admin,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Ingest, Self::Query, Self::Admin];

    fn every(self) -> Duration {
        match self {
            Self::Ingest => Duration::from_millis(50),
            Self::Query => Duration::from_millis(100),
            Self::Admin => Duration::from_millis(250),
        }
    }
}

/// Requests of one kind during a window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Served {
    pub(super) kind: Kind,
    pub(super) sent: u64,
    pub(super) served: u64,
    /// Of those that were served.
    pub(super) latencies: Quantiles,
    /// What the first that was not served was told.
    pub(super) refusal: Option<String>,
}

impl Served {
    pub(super) fn percent(&self) -> f64 {
        if self.sent == 0 { 100.0 } else { 100.0 * self.served as f64 / self.sent as f64 }
    }
}

#[derive(Debug, Default)]
struct Count {
    sent: u64,
    served: u64,
    answered: u64,
    latencies: Latencies,
    refusal: Option<String>,
}

/// Of one window, by kind.
type Window = [Count; 3];

#[derive(Debug, thiserror::Error)]
pub enum BystanderError {
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An event was not taken by the end.
    #[error("the bystander's events were not taken: {0}")]
    Delivery(#[from] DeliveryError),
    /// There was nothing wrong with it.
    #[error("a good event of the bystander was rejected with `{0}`")]
    Rejected(String),
    #[error("a request of the bystander panicked: {0}")]
    Panicked(#[from] JoinError),
}

/// The running load.
pub(super) struct Bystander {
    counts: Arc<Counts>,
    stop: watch::Sender<bool>,
    kinds: JoinSet<Result<Ledger, BystanderError>>,
}

#[derive(Debug)]
struct Counts {
    window: AtomicU64,
    windows: Mutex<Vec<Window>>,
    /// When the newest request that was served had been due, by kind.
    newest: watch::Sender<[Option<Instant>; 3]>,
}

/// A request that is under way.
struct Request {
    counts: Arc<Counts>,
    kind: Kind,
    window: u64,
    due: Instant,
}

impl Counts {
    fn due(self: &Arc<Self>, kind: Kind, due: Instant) -> Request {
        let window = self.window.load(Ordering::Relaxed);
        self.change(window, kind, |count| count.sent += 1);
        Request { counts: Arc::clone(self), kind, window, due }
    }

    fn change(&self, window: u64, kind: Kind, change: impl FnOnce(&mut Count)) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = windows.get_mut(window as usize).and_then(|window| window.get_mut(kind as usize)) {
            change(count);
        }
    }
}

impl Request {
    /// Settles it; says whether it was served.
    fn answered(self, reply: &Result<Reply, HttpError>) -> bool {
        let refusal = match reply {
            Ok(reply) if reply.status.is_success() => None,
            Ok(reply) => Some(format!("{} {}", reply.status.as_u16(), reply.excerpt())),
            Err(error) => Some(error.to_string()),
        };
        let is_served = refusal.is_none();
        self.settle(refusal);
        is_served
    }

    fn settle(self, refusal: Option<String>) {
        let (took, is_served) = (self.due.elapsed(), refusal.is_none());
        self.counts.change(self.window, self.kind, |count| {
            count.answered += 1;
            if is_served {
                count.served += 1;
                count.latencies.add(took);
            }
            count.refusal = count.refusal.take().or(refusal);
        });
        if is_served {
            self.counts.newest.send_modify(|newest| {
                if let Some(newest) = newest.get_mut(self.kind as usize) {
                    *newest = (*newest).max(Some(self.due));
                }
            });
        }
    }
}

impl Bystander {
    pub(super) fn start(system: &System) -> Result<Self, BystanderError> {
        let counts = Arc::new(Counts {
            window: AtomicU64::new(0),
            windows: Mutex::new(vec![Window::default()]),
            newest: watch::channel([None; 3]).0,
        });
        let (stop, stopped) = watch::channel(false);
        let mut kinds = JoinSet::new();
        let config = ClientConfig {
            answer_within: SERVED_WITHIN,
            give_up_after: TAKEN_WITHIN,
            key: INGEST_KEY.to_owned(),
            ..ClientConfig::development(system.ingest_url())
        };
        let writer =
            Writer { client: Arc::new(Client::new(&config)?), generator: Generator::new(7, 1, Spread::Recent) };
        kinds.spawn(writer.run(Arc::clone(&counts), stopped.clone()));
        let dashboards = || Endpoint::new(&system.query_url(), SERVED_WITHIN)?.api_key(QUERY_KEY);
        let reader = Reader { kept: Arc::new(dashboards()?), url: system.query_url() };
        kinds.spawn(reader.run(Arc::clone(&counts), stopped.clone()));
        let ports = [system.ingest_admin_url(), system.query_admin_url()];
        kinds.spawn(look_at_admin_ports(ports, Arc::clone(&counts), stopped));
        Ok(Self { counts, stop, kinds })
    }

    /// Counts apart from now on.
    pub(super) fn begin_window(&self) -> u64 {
        self.counts.windows.lock().unwrap_or_else(PoisonError::into_inner).push(Window::default());
        self.counts.window.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What became of a window's requests. Those that are sent from now on are another's; those under way are waited for.
    pub(super) async fn end_window(&self, window: u64) -> Vec<Served> {
        self.begin_window();
        let deadline = Instant::now() + SERVED_WITHIN;
        loop {
            let (all_answered, served) = self.look_at(window);
            if all_answered || Instant::now() > deadline {
                return served;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn look_at(&self, window: u64) -> (bool, Vec<Served>) {
        let windows = self.counts.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = windows.get(window as usize);
        let served = |(kind, count): (Kind, &Count)| Served {
            kind,
            sent: count.sent,
            served: count.served,
            latencies: count.latencies.quantiles(),
            refusal: count.refusal.clone(),
        };
        let all_answered = counts.is_some_and(|counts| counts.iter().all(|count| count.answered == count.sent));
        (all_answered, counts.map_or_else(Vec::new, |counts| Kind::ALL.into_iter().zip(counts).map(served).collect()))
    }

    /// How long after `since` every kind was served: a request that was due after it. `None` when that takes longer than `within`.
    pub(super) async fn served_again(&self, since: Instant, within: Duration) -> Option<Duration> {
        let mut newest = self.counts.newest.subscribe();
        let all = newest.wait_for(|newest| newest.iter().all(|due| due.is_some_and(|due| due >= since)));
        timeout_at(Instant::now() + within, all).await.is_ok_and(|seen| seen.is_ok()).then(|| since.elapsed())
    }

    /// Ends the load, and returns what was acknowledged in all.
    pub(super) async fn finish(mut self) -> Result<Ledger, BystanderError> {
        self.stop.send_replace(true);
        let mut total = Ledger::default();
        while let Some(ledger) = self.kinds.join_next().await {
            total = total.plus(ledger??);
        }
        Ok(total)
    }
}

/// The due times of a kind, until it is stopped.
struct Ticks {
    ticks: tokio::time::Interval,
    stopped: watch::Receiver<bool>,
}

impl Ticks {
    fn of(kind: Kind, stopped: watch::Receiver<bool>) -> Self {
        let mut ticks = interval(kind.every());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        Self { ticks, stopped }
    }

    async fn next(&mut self) -> Option<Instant> {
        if *self.stopped.borrow() {
            return None;
        }
        Some(self.ticks.tick().await)
    }
}

struct Writer {
    client: Arc<Client>,
    generator: Generator,
}

impl Writer {
    async fn run(mut self, counts: Arc<Counts>, stopped: watch::Receiver<bool>) -> Result<Ledger, BystanderError> {
        let mut ticks = Ticks::of(Kind::Ingest, stopped);
        let mut under_way = JoinSet::new();
        let mut ledger = Ledger::default();
        while let Some(due) = ticks.next().await {
            let request = counts.due(Kind::Ingest, due);
            while let Some(done) = under_way.try_join_next() {
                enter(&mut ledger, done??);
            }
            if under_way.len() >= UNDER_WAY {
                request.settle(Some(NOT_SENT.to_owned()));
                continue;
            }
            let now = Timestamp::now();
            let events: Vec<(Outgoing, Facts)> = (0..EVENTS_PER_REQUEST).map(|_| self.generator.next(now)).collect();
            under_way.spawn(send(Arc::clone(&self.client), events, request));
        }
        while let Some(done) = under_way.join_next().await {
            enter(&mut ledger, done??);
        }
        Ok(ledger)
    }
}

fn enter(ledger: &mut Ledger, events: Vec<(Outgoing, Facts)>) {
    for (event, facts) in events {
        ledger.enter(event.id, &facts);
    }
}

async fn send(
    client: Arc<Client>,
    events: Vec<(Outgoing, Facts)>,
    request: Request,
) -> Result<Vec<(Outgoing, Facts)>, BystanderError> {
    let batch: Vec<Outgoing> = events.iter().map(|(event, _)| event.clone()).collect();
    if !request.answered(&client.attempt(&batch).await) {
        let delivery = client.deliver(&batch).await?;
        if let Some(rejection) = delivery.rejected.into_iter().next() {
            return Err(BystanderError::Rejected(rejection.code));
        }
    }
    Ok(events)
}

struct Reader {
    /// Its connections are kept.
    kept: Arc<Endpoint>,
    url: String,
}

impl Reader {
    async fn run(self, counts: Arc<Counts>, stopped: watch::Receiver<bool>) -> Result<Ledger, BystanderError> {
        let mut ticks = Ticks::of(Kind::Query, stopped);
        let mut under_way = JoinSet::new();
        let began = Timestamp::now();
        let mut number = 0;
        while let Some(due) = ticks.next().await {
            let request = counts.due(Kind::Query, due);
            while under_way.try_join_next().is_some() {}
            if under_way.len() >= UNDER_WAY {
                request.settle(Some(NOT_SENT.to_owned()));
                continue;
            }
            number += 1;
            let asked = match number % NEW_QUESTION {
                0 => panels::fresh(WEEK, began, number),
                _ => panels::series(WEEK, began),
            };
            let panel = asked.into_iter().cycle().nth(number as usize % 8).unwrap_or_default();
            let endpoint = match number % NEW_VISITOR {
                0 => Arc::new(Endpoint::new(&self.url, SERVED_WITHIN)?.api_key(QUERY_KEY)?),
                _ => Arc::clone(&self.kept),
            };
            under_way.spawn(async move {
                request.answered(&endpoint.send(Method::GET, &panel, Bytes::new()).await);
            });
        }
        under_way.join_all().await;
        Ok(Ledger::default())
    }
}

/// As Prometheus and a load balancer do, each time over a connection of its own.
async fn look_at_admin_ports(
    ports: [String; 2],
    counts: Arc<Counts>,
    stopped: watch::Receiver<bool>,
) -> Result<Ledger, BystanderError> {
    const PAGES: [&str; 2] = ["/metrics", "/health/live"];
    let mut ticks = Ticks::of(Kind::Admin, stopped);
    let mut under_way = JoinSet::new();
    for number in 0_usize.. {
        let Some(due) = ticks.next().await else { break };
        let request = counts.due(Kind::Admin, due);
        while under_way.try_join_next().is_some() {}
        let port = ports.get(number % ports.len()).map(String::as_str).unwrap_or_default();
        let page = PAGES.get(number / 2 % PAGES.len()).copied().unwrap_or_default();
        let endpoint = Endpoint::new(port, SERVED_WITHIN)?;
        under_way.spawn(async move {
            request.answered(&endpoint.get(page).await);
        });
    }
    under_way.join_all().await;
    Ok(Ledger::default())
}
