//! A request, forwards:
//!
//! ```text
//! request -> authenticate -> admit -> read -> open -> normalise -> submit -> settle -> reply
//!                                                                  |
//!                          into the local log (`direct`) or into Kafka (`kafka`)
//! ```
//!
//! Up to `submit` nothing was taken and every error is a plain refusal. After it, a request ends in one of three ways:
//! every event is durable (2xx), some were handed back before any attempt (503, nothing of them is kept), or the deadline
//! passed (503): they are still on their way, and sending them again attaches to them instead of counting twice.

use std::sync::Arc;

use axum::extract::Request;
use tallyhouse_schema::body::Layout;
use tallyhouse_schema::normalise::{Context, ProjectRules};
use tallyhouse_schema::project::ProjectSettings;
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_schema::warning::Warnings;
use tallyhouse_schema::{Catalogue, Event, Rejection, Warning};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::{Health, Status};
use tallyhouse_service::keys::{self, Grant, KeyRing, Scope};
use tokio::time::Instant;
use ulid::Ulid;

use crate::ack::{Refused, Settled};
use crate::admit::Budget;
use crate::agent::Agents;
use crate::answer::{Rejected, Reply, Warned};
use crate::dead_letters::{self, DeadLetter, Kind, Origin, Sink, State};
use crate::decode::{self, Events, Refusal};
use crate::delivery::{Delivery, Pending, Ready};
use crate::guard::{Guard, Rewritten};
use crate::limits::RequestLimits;
use crate::metrics::Metrics;
use crate::projects::Projects;
use crate::request::body::{Encoding, read, reservation};
use crate::request::{DeadLetters, IngestOptions, RequestError, Wait, layout, trace};

/// Bodies above this are taken apart on a thread for blocking work: parsing them would hold up everybody else's requests.
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
    pub(crate) guard: Arc<Guard>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
}

impl Pipeline {
    /// Carries a request out.
    pub async fn run(self: &Arc<Self>, request: Request) -> Result<Reply, RequestError> {
        let (head, body) = request.into_parts();
        let caller = self.authenticate(&head.headers)?;
        let (options, layout, encoding) =
            (IngestOptions::of(&head.uri)?, layout(&head.headers)?, Encoding::of(&head.headers)?);

        let limits = self.limits;
        let _room = self.budget.reserve(reservation(&head.headers, encoding, limits)?, caller.settings.priority)?;
        let body = read(body, encoding, limits).await?;
        let ready = self.delivery.prepare(&caller.rules.project).await;
        let (sent, sent_layout) = (body.clone(), layout);
        let asked = Asked { layout, caller, dead_letters: options.dead_letters, ready, trace: trace(&head.headers) };

        let taken = if body.len() > LARGE_BODY {
            let pipeline = Arc::clone(self);
            let work = tokio::task::spawn_blocking(move || pipeline.take(&body, asked));
            work.await.map_err(|error| {
                tracing::error!(%error, "taking a body apart failed");
                RequestError::Internal
            })??
        } else {
            self.take(&body, asked)?
        };
        let mut reply = self.confirm(taken, options.wait).await?;
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

    fn authenticate(&self, headers: &axum::http::HeaderMap) -> Result<Caller, RequestError> {
        let key = keys::presented(headers).ok_or(RequestError::MissingKey)?;
        let grant: &Grant = self.keys.find(key).ok_or(RequestError::UnknownKey)?;
        if !grant.allows(Scope::Ingest) {
            return Err(RequestError::WrongScope);
        }
        let settings = self.projects.of(&grant.project);
        let rules = ProjectRules {
            project: grant.project.clone(),
            late_window_days: settings.late_window_days,
            retention_days: settings.retention_days,
            may_import: grant.allows(Scope::Import),
        };
        Ok(Caller { rules, key_id: grant.key_id.clone(), settings: settings.clone() })
    }

    /// Counts as `__other__` what is beyond the bound of distinct values and types, and warns of types.
    fn bound(&self, caller: &Caller, events: &mut [Event<'_>], warnings: &mut Vec<(usize, Warnings)>) {
        let known = warnings.len();
        let is_declared = |name: &str| self.catalogue.declares(name);
        let most = caller.settings.dimension_values;
        self.guard.apply(&caller.rules.project, most, is_declared, events, |rewritten| match rewritten {
            Rewritten::Value { set } => self.metrics.dimension_overflowed(set),
            Rewritten::Type { place } => {
                self.metrics.event_type_overflow.inc();
                let before = warnings.get(..known).unwrap_or_default();
                let at = before.binary_search_by_key(&place, |(place, _)| *place).unwrap_or_else(|_| {
                    warnings.push((place, Warnings::default()));
                    warnings.len() - 1
                });
                if let Some((_, warnings)) = warnings.get_mut(at) {
                    warnings.add(Warning::TooManyEventTypes);
                }
            }
        });
        warnings.sort_by_key(|(at, _)| *at);
    }

    /// Bytes -> events on their way. Pure but for the delivery, the ids and the clock.
    fn take(&self, bytes: &[u8], asked: Asked) -> Result<Taken, RequestError> {
        let Asked { layout, caller, dead_letters, ready, trace } = asked;
        let most = self.limits.decoded_bytes;
        let (text, _room) = decode::text(bytes, most, &self.budget, caller.settings.priority)?;
        let agent = |user_agent: &str| self.agents.read(user_agent);
        let new_id = || Ulid::generate().to_string();
        let context = Context {
            catalogue: &self.catalogue,
            rules: &caller.rules,
            hasher: &self.hasher,
            agent: &agent,
            new_id: &new_id,
            received_at: now_ms(),
        };
        let Events { is_single, mut events, indices, mut warnings, refusals } = decode::events(&text, layout, context)?;
        self.bound(&caller, &mut events, &mut warnings);
        let event_id = events.first().map(|event| event.event_id.to_string()).unwrap_or_default();
        let pending = if events.is_empty() {
            None
        } else {
            let pending = self.delivery.submit(ready, &caller.rules.project, &events, trace.as_deref());
            Some(pending.map_err(|why| self.refused(why, events.len()))?)
        };
        // Counted only now: a request that was refused as a whole comes again.
        refusals.iter().for_each(|refusal| self.metrics.rejected(refusal.rejected.rejection.code()));
        let mut warned = Warned::default();
        for (at, warnings) in warnings {
            warnings.codes().for_each(|code| self.metrics.warned(code));
            if let (Some(index), Some(event)) = (indices.get(at), events.get(at)) {
                warned.add(*index, &event.event_id, warnings);
            }
        }
        if caller.settings.dead_letters && dead_letters == DeadLetters::AsSet {
            self.dead_letters.offer(refusals.iter().map(|refusal| refusal.dead_letter(&caller)).collect());
        }
        let rejected = refusals.into_iter().map(|refusal| refusal.rejected).collect();
        Ok(Taken { is_single, event_id, pending, indices, rejected, warned })
    }

    fn refused(&self, why: Refused, events: usize) -> RequestError {
        self.metrics.handed_back(events);
        let components = self.health.report().components;
        RequestError::not_taken(why, components.get("clickhouse").is_some_and(|store| store.status == Status::Up))
    }

    /// Waits until every event is settled, at most until the deadline.
    async fn confirm(&self, taken: Taken, wait: Wait) -> Result<Reply, RequestError> {
        let deadline = Instant::now() + self.limits.ack_timeout;
        let Taken { is_single, event_id, pending, indices, mut rejected, mut warned } = taken;
        let settled = match pending {
            Some(pending) => self.delivery.settle(pending, wait, deadline).await,
            None => Vec::new(),
        };
        let count = |of: Settled| settled.iter().filter(|settled| **settled == of).count();
        let at = |of: Settled| settled.iter().zip(&indices).filter(move |(s, _)| **s == of).map(|(_, index)| *index);
        let (accepted, duplicates) = (count(Settled::Accepted), count(Settled::Duplicate));
        let is_open = |settled: &Settled| matches!(settled, Settled::Open | Settled::Late | Settled::LateDuplicate);
        let open: Vec<usize> =
            settled.iter().zip(&indices).filter(|(settled, _)| is_open(settled)).map(|(_, index)| *index).collect();
        let events = settled.len() + rejected.len();
        // What was accepted is counted where it ends: when it is stored, or in the log.
        self.metrics.duplicates(duplicates + count(Settled::LateDuplicate));
        self.metrics.handed_back(count(Settled::Open));
        if !open.is_empty() {
            return Err(RequestError::NotConfirmed { events, indices: open });
        }
        for index in at(Settled::TooLarge) {
            self.metrics.rejected(Rejection::TooLargeForLog.code());
            warned.forget(index);
            rejected.push(Rejected { index, event_id: None, rejection: Rejection::TooLargeForLog });
        }
        // Counted as dead letters, where they became that.
        for (settled, index) in settled.iter().zip(&indices) {
            if let Settled::RefusedByStore(code) = *settled {
                warned.forget(*index);
                rejected.push(Rejected {
                    index: *index,
                    event_id: None,
                    rejection: Rejection::RefusedByStore { code },
                });
            }
        }
        rejected.sort_by_key(|rejected| rejected.index);
        Ok(Reply { wait, is_single, event_id, accepted, duplicates, rejected, warned })
    }
}

/// What a request asks for, beside its body.
struct Asked {
    layout: Layout,
    caller: Caller,
    dead_letters: DeadLetters,
    ready: Ready,
    trace: Option<String>,
}

impl Refusal<'_> {
    fn dead_letter(&self, caller: &Caller) -> DeadLetter {
        let (now, rejected) = (now_ms(), &self.rejected);
        DeadLetter {
            project: caller.rules.project.clone(),
            id: Ulid::generate().to_string(),
            kind: Kind::Json,
            code: rejected.rejection.code().to_owned(),
            reason: rejected.rejection.to_string(),
            payload: dead_letters::cut(self.text.as_bytes()),
            event_id: rejected.event_id.clone().unwrap_or_default(),
            origin: Origin::of_key(&caller.key_id),
            received_at: now,
            failed_at: now,
            state: State::Open,
            updated_at: now,
        }
    }
}

/// Who sent a request, and what its project wants.
struct Caller {
    rules: ProjectRules,
    key_id: String,
    settings: ProjectSettings,
}

/// A request whose events are on their way.
struct Taken {
    is_single: bool,
    event_id: String,
    /// `None` when no event was left.
    pending: Option<Pending>,
    /// Where in the body each submitted event was.
    indices: Vec<usize>,
    rejected: Vec<Rejected>,
    warned: Warned,
}
