//! The write path, forwards:
//!
//! ```text
//! request -> authenticate -> admit -> read -> open -> normalise -> submit (dedup, batch) -> await the batches -> reply
//! ```
//!
//! Up to `submit` nothing was taken and every error is a plain refusal. After it, a request ends in one of three ways:
//! every batch is stored (2xx), a batch was handed back before any attempt (503, nothing of it is kept), or the deadline
//! passed (503): its events are still on their way, and sending them again attaches to them instead of counting twice.

use std::sync::Arc;

use axum::extract::Request;
use tallyhouse_schema::body::{self, Envelope, Layout, Unread};
use tallyhouse_schema::normalise::{Context, ProjectRules, normalise};
use tallyhouse_schema::project::ProjectSettings;
use tallyhouse_schema::raw::RawTime;
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_schema::{Catalogue, Event, Rejection, raw};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::Health;
use tallyhouse_service::keys::{self, Grant, KeyRing, Scope};
use tokio::time::Instant;
use ulid::Ulid;

use crate::admit::Budget;
use crate::agent::Agents;
use crate::batch::Outcome;
use crate::config::Config;
use crate::dead_letters::{self, DeadLetter, Kind, Origin, Sink, State};
use crate::guard::Guard;
use crate::http::body::{Encoding, read, reservation};
use crate::http::error::{RequestError, refused};
use crate::http::reply::{Rejected, Reply};
use crate::http::{Wait, layout};
use crate::intake::{Fate, Intake, Submitted};
use crate::metrics::Metrics;

/// Bodies above this are taken apart on a thread for blocking work: parsing them would hold up everybody else's requests.
const LARGE_BODY: usize = 256 * 1024;

/// What every request needs.
pub struct Pipeline {
    pub(crate) config: Config,
    pub(crate) keys: KeyRing,
    pub(crate) catalogue: Catalogue,
    pub(crate) hasher: UserHasher,
    pub(crate) agents: Agents,
    pub(crate) budget: Budget,
    pub(crate) intake: Arc<Intake>,
    pub(crate) dead_letters: Arc<dyn Sink>,
    pub(crate) guard: Guard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
}

impl Pipeline {
    /// Carries a request out.
    pub async fn run(self: &Arc<Self>, request: Request) -> Result<Reply, RequestError> {
        let (head, body) = request.into_parts();
        let caller = self.authenticate(&head.headers)?;
        let (wait, layout, encoding) = (Wait::of(&head.uri)?, layout(&head.headers)?, Encoding::of(&head.headers)?);

        let limits = self.config.request;
        let _room = self.budget.reserve(reservation(&head.headers, encoding, limits)?, caller.settings.priority)?;
        let body = read(body, encoding, limits).await?;

        let taken = if body.len() > LARGE_BODY {
            let pipeline = Arc::clone(self);
            let work = tokio::task::spawn_blocking(move || pipeline.take(&body, layout, &caller));
            work.await.map_err(|error| {
                tracing::error!(%error, "taking a body apart failed");
                RequestError::Internal
            })??
        } else {
            self.take(&body, layout, &caller)?
        };
        self.confirm(taken, wait).await
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
        let settings = self.config.projects.of(&grant.project);
        let rules = ProjectRules {
            project: grant.project.clone(),
            late_window_days: settings.late_window_days,
            retention_days: settings.retention_days,
            may_import: grant.allows(Scope::Import),
        };
        Ok(Caller { rules, key_id: grant.key_id.clone(), settings: settings.clone() })
    }

    /// Bytes -> events in batches. Pure but for the intake, the ids and the clock.
    fn take(&self, bytes: &[u8], layout: Layout, caller: &Caller) -> Result<Taken, RequestError> {
        let envelope = body::open(bytes, layout)?;
        let is_single = envelope.is_single;
        let (mut events, indices, refusals) = self.normalise(envelope, &caller.rules);
        self.guard.apply(&caller.rules.project, caller.settings.dimension_values, &mut events, |set| {
            self.metrics.dimension_overflowed(set);
        });
        let event_id = events.first().map(|event| event.event_id.to_string()).unwrap_or_default();
        let submitted = if events.is_empty() {
            Submitted { fates: Vec::new(), tickets: Vec::new() }
        } else {
            self.intake.submit(&caller.rules.project, &events).map_err(|why| {
                self.metrics.fates("handed_back", events.len());
                refused(why, self.health.is_ready())
            })?
        };
        // Counted only now: a request that was refused as a whole comes again.
        refusals.iter().for_each(|refusal| self.metrics.rejected(refusal.rejected.rejection.code()));
        if caller.settings.dead_letters {
            self.dead_letters.offer(refusals.iter().map(|refusal| refusal.letter(caller)).collect());
        }
        let rejected = refusals.into_iter().map(|refusal| refusal.rejected).collect();
        Ok(Taken { is_single, event_id, submitted, indices, rejected })
    }

    /// Events, their places in the body, and what was refused.
    fn normalise<'a>(
        &'a self,
        envelope: Envelope<'a>,
        rules: &'a ProjectRules,
    ) -> (Vec<Event<'a>>, Vec<usize>, Vec<Refusal<'a>>) {
        let agent = |user_agent: &str| self.agents.read(user_agent);
        let new_id = || Ulid::generate().to_string();
        let context = Context {
            catalogue: &self.catalogue,
            rules,
            hasher: &self.hasher,
            agent: &agent,
            new_id: &new_id,
            received_at: now_ms(),
        };
        let mut events = Vec::with_capacity(envelope.items.len());
        let mut indices = Vec::with_capacity(envelope.items.len());
        let mut rejected = Vec::new();
        for (index, item) in envelope.items.into_iter().enumerate() {
            let (text, read) = match item {
                Ok(text) => (text, event(text, envelope.sent_at.as_ref(), context)),
                Err(Unread { text, rejection }) => (text, Err((None, rejection))),
            };
            match read {
                Ok(event) => {
                    events.push(event);
                    indices.push(index);
                }
                Err((event_id, rejection)) => {
                    rejected.push(Refusal { text, rejected: Rejected { index, event_id, rejection } });
                }
            }
        }
        (events, indices, rejected)
    }

    /// Waits until every batch is settled, at most until the deadline.
    async fn confirm(&self, taken: Taken, wait: Wait) -> Result<Reply, RequestError> {
        let deadline = Instant::now() + self.config.request.ack_timeout;
        let Taken { is_single, event_id, submitted, indices, rejected } = taken;
        let mut is_stored = Vec::with_capacity(submitted.tickets.len());
        for mut ticket in submitted.tickets {
            let settled =
                tokio::time::timeout_at(deadline, ticket.wait_for(|outcome| *outcome != Outcome::Pending)).await;
            is_stored.push(matches!(settled, Ok(Ok(outcome)) if *outcome == Outcome::Stored));
        }
        let fates = submitted.fates;
        let confirmed = |batch: Option<usize>| batch.is_none_or(|batch| is_stored.get(batch) == Some(&true));
        let open: Vec<usize> =
            fates.iter().zip(&indices).filter(|((_, batch), _)| !confirmed(*batch)).map(|(_, index)| *index).collect();
        let count = |fate| fates.iter().filter(|(f, batch)| *f == fate && confirmed(*batch)).count();
        let (accepted, duplicates) = (count(Fate::Accepted), count(Fate::Duplicate));
        self.metrics.fates("stored", accepted);
        self.metrics.fates("duplicate", duplicates);
        self.metrics.fates("handed_back", open.len());
        if open.is_empty() {
            Ok(Reply { status: wait.status(), is_single, event_id, accepted, duplicates, rejected })
        } else {
            Err(RequestError::NotConfirmed { events: fates.len() + rejected.len(), indices: open })
        }
    }
}

/// One event's text -> event; a refusal carries the id, if it was readable.
fn event<'a>(
    text: &'a str,
    batch_sent_at: Option<&RawTime<'a>>,
    context: Context<'a, '_>,
) -> Result<Event<'a>, (Option<String>, Rejection)> {
    let raw = raw::read(text).map_err(|rejection| (None, rejection))?;
    let event_id = raw.event_id.clone();
    normalise(raw, batch_sent_at, context).map_err(|rejection| (event_id.map(Into::into), rejection))
}

/// A refused event and its text.
struct Refusal<'a> {
    text: &'a str,
    rejected: Rejected,
}

impl Refusal<'_> {
    fn letter(&self, caller: &Caller) -> DeadLetter {
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

/// A request whose events are in batches.
struct Taken {
    is_single: bool,
    event_id: String,
    submitted: Submitted,
    /// Where in the body each submitted event was.
    indices: Vec<usize>,
    rejected: Vec<Rejected>,
}
