//! The table of attacks. One file each, or one for those that differ in a number.

mod admin;
mod bombs;
mod engine_http;
mod engine_native;
mod half_open;
mod hung_up;
mod idle_bodies;
mod odd_events;
mod signals;
mod sql;
mod streams;
mod trickle;

use std::pin::Pin;
use std::time::Duration;

use super::SiegeError;
use super::bystander::Kind;
use super::target::Target;
use half_open::Listener;

type Playing<'a> = Pin<Box<dyn Future<Output = Result<Findings, SiegeError>> + Send + 'a>>;

/// What is done to the system, and what must hold meanwhile.
pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) play: for<'a> fn(&'a Target) -> Playing<'a>,
    pub(super) promise: Promise,
}

/// What an attack must not change. That everything acknowledged is stored is promised always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promise {
    /// Whom 99 per cent are promised to.
    pub(super) served: &'static [Kind],
    pub(super) engine: Process,
    pub(super) service: Process,
    /// Resident bytes of the service at its highest.
    pub(super) memory: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    /// It is the same process afterwards.
    Stays,
    /// What is done to it may end it, in order: a service drains, an engine is started again.
    MayEnd,
}

const SERVED: Promise = Promise { served: &Kind::ALL, engine: Process::Stays, service: Process::Stays, memory: None };

/// Of compressed bodies: they inflate to gigabytes.
const BOUNDED: Promise = Promise { memory: Some(300_000_000), ..SERVED };

/// While ClickHouse stands still nobody can be told what was never asked before.
const WITHOUT_ENGINE: Promise = Promise { served: &[Kind::Ingest, Kind::Admin], engine: Process::MayEnd, ..SERVED };

/// A hang-up stops the service as SIGTERM does, when it was not started to ignore it: nobody is served between its end and its next
/// start.
const STOPPED: Promise = Promise { served: &[], engine: Process::MayEnd, service: Process::MayEnd, memory: None };

/// In the order in which they are played.
pub(super) const ALL: &[Attack] = &[
    attack("engine, HTTP packets", |target| Box::pin(engine_http::play(target)), SERVED),
    attack("engine, native packets", |target| Box::pin(engine_native::play(target)), SERVED),
    attack(
        "half-open, ingest",
        |target| Box::pin(half_open::play(target, target.ports.ingest, Listener::Ours)),
        SERVED,
    ),
    attack("half-open, query", |target| Box::pin(half_open::play(target, target.ports.query, Listener::Ours)), SERVED),
    attack(
        "half-open, admin",
        |target| Box::pin(half_open::play(target, target.ports.ingest_admin, Listener::Ours)),
        SERVED,
    ),
    attack(
        "half-open, engine",
        |target| Box::pin(half_open::play(target, target.ports.clickhouse_http, Listener::Engine)),
        SERVED,
    ),
    attack("trickled headers", |target| Box::pin(trickle::headers(target)), SERVED),
    attack("trickled bodies", |target| Box::pin(trickle::bodies(target)), SERVED),
    attack("gzip bombs", |target| Box::pin(bombs::gzip(target)), BOUNDED),
    attack("zstd bombs", |target| Box::pin(bombs::zstd(target)), BOUNDED),
    attack("idle chunked bodies", |target| Box::pin(idle_bodies::play(target)), SERVED),
    attack("hung-up statements", |target| Box::pin(hung_up::play(target)), SERVED),
    attack("streams", |target| Box::pin(streams::play(target)), SERVED),
    attack("odd events", |target| Box::pin(odd_events::play(target)), SERVED),
    attack("admin, cross-site", |target| Box::pin(admin::play(target)), SERVED),
    attack("forbidden SQL", |target| Box::pin(sql::play(target)), SERVED),
    attack("engine, SIGSTOP", |target| Box::pin(signals::stop_engine(target)), WITHOUT_ENGINE),
    attack("service, SIGHUP", |target| Box::pin(signals::hang_up(target)), STOPPED),
];

const fn attack(name: &'static str, play: for<'a> fn(&'a Target) -> Playing<'a>, promise: Promise) -> Attack {
    Attack { name, play, promise }
}

/// The names of all attacks.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|attack| attack.name).collect()
}

/// The longest that an attack may take.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// What the attacker itself found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// What was done and answered.
    pub(super) notes: Vec<String>,
    /// What must not be.
    pub(super) broken: Vec<String>,
}

impl Findings {
    pub(super) fn broken(what: String) -> Self {
        Self { broken: vec![what], ..Self::default() }
    }

    pub(super) fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    /// Notes what breaks a promise when it does not hold.
    pub(super) fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(otherwise());
        }
    }
}
