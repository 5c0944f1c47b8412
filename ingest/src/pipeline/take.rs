//! Reads a body, and submits its events.

use tallyhouse_schema::body::Layout;
use tallyhouse_schema::event::Flags;
use tallyhouse_schema::json_schema::Mode;
use tallyhouse_schema::normalise::Context;
use tallyhouse_schema::warning::Warnings;
use tallyhouse_schema::{Catalogue, Event, Rejection, Warning, consent};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::health::Status;
use ulid::Ulid;

use super::Pipeline;
use super::charge::Charge;
use super::sender::Sender;
use crate::ack::SubmitError;
use crate::admit::Room;
use crate::answer::{Dropped, Rejected, Warned};
use crate::dead_letters::{self, DeadLetter, DeadLetterState, Kind, Origin};
use crate::decode::{self, Events, Refusal};
use crate::delivery::{Pending, Ready};
use crate::request::RequestError;

/// What a request asks for, beside its body.
pub(super) struct Asked {
    pub(super) layout: Layout,
    pub(super) sender: Sender,
    pub(super) keeps_dead_letters: bool,
    pub(super) ready: Ready,
    pub(super) trace: Option<String>,
}

/// A request whose events were submitted.
pub(super) struct Taken {
    pub(super) is_single: bool,
    pub(super) event_id: String,
    /// `None` when no event was left.
    pub(super) pending: Option<Pending>,
    /// Where in the body each submitted event was.
    pub(super) indices: Vec<usize>,
    pub(super) rejected: Vec<Rejected>,
    pub(super) dropped: Vec<Dropped>,
    pub(super) warned: Warned,
    pub(super) charge: Charge,
}

impl Pipeline {
    /// Bytes -> submitted events. Pure but for the delivery, the limits, the ids and the clock.
    pub(super) async fn take(&self, bytes: &[u8], asked: Asked, room: &mut Room) -> Result<Taken, RequestError> {
        let Asked { layout, sender, keeps_dead_letters, ready, trace } = asked;
        let most = self.limits.decoded_bytes;
        let text = decode::text(bytes, most, room)?;
        // One for the whole request, whatever is registered meanwhile.
        let catalogue = self.catalogue.of(&sender.rules.project);
        let mut decoded = {
            let agent = |user_agent: &str| self.agents.read(user_agent);
            let new_id = || Ulid::generate().to_string();
            let context = Context {
                catalogue: &catalogue,
                rules: &sender.rules,
                hasher: &sender.hasher,
                agent: &agent,
                new_id: &new_id,
                received_at: now_ms(),
            };
            decode::events(&text, layout, context)?
        };
        let (charge, limited) = self.charge(&sender, &mut decoded).await;
        let Events { is_single, mut events, indices, mut warnings, refusals, dropped } = decoded;
        self.bound(&sender, &catalogue, &mut events, &mut warnings);
        let event_id = events.first().map(|event| event.event_id.to_string()).unwrap_or_default();
        let pending = if events.is_empty() {
            None
        } else {
            let pending = self.delivery.submit(ready, &sender.rules.project, &events, trace.as_deref());
            let refused = |why| {
                self.give_back(&charge, events.len());
                self.refused(why, events.len())
            };
            Some(pending.map_err(refused)?)
        };
        self.metrics.handed_back(limited.len());
        // Counted only now: a request that was refused as a whole comes again.
        refusals.iter().for_each(|refusal| self.metrics.rejected(refusal.rejected.rejection.code()));
        for refusal in &refusals {
            if let Rejection::SchemaViolation { event_type, .. } = &refusal.rejected.rejection {
                self.metrics.schemas.violated(Mode::Enforce, event_type);
            }
        }
        self.metrics.dropped(consent::DROPPED, dropped.len());
        let mut warned = Warned::default();
        for (at, warnings) in warnings {
            warnings.codes().for_each(|code| self.metrics.warned(code));
            if let (Some(index), Some(event)) = (indices.get(at), events.get(at)) {
                if warnings.codes().any(|code| code == Warning::SCHEMA_VIOLATION) {
                    self.metrics.schemas.violated(Mode::Report, &event.event_type);
                }
                warned.add(*index, &event.event_id, warnings);
            }
        }
        if sender.settings.dead_letters && keeps_dead_letters {
            self.dead_letters.offer(refusals.iter().map(|refusal| refusal.dead_letter(&sender)).collect());
        }
        let rejected = refusals.into_iter().map(|refusal| refusal.rejected).chain(limited).collect();
        Ok(Taken { is_single, event_id, pending, indices, rejected, dropped, warned, charge })
    }

    /// Limits the cardinality of dimensions and event types, and warns of rewritten types.
    fn bound(
        &self,
        sender: &Sender,
        catalogue: &Catalogue,
        events: &mut [Event<'_>],
        warnings: &mut Vec<(usize, Warnings)>,
    ) {
        let is_declared = |name: &str| catalogue.declares(name);
        let most = sender.settings.dimension_values;
        self.cardinality.apply(&sender.rules.project, most, is_declared, events, |set| {
            self.metrics.dimension_overflowed(set);
        });
        let others = events.iter().enumerate().filter(|(_, event)| event.flags.has(Flags::OTHER_TYPE));
        let known = warnings.len();
        for (place, _) in others {
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
        warnings.sort_by_key(|(at, _)| *at);
    }

    fn refused(&self, why: SubmitError, events: usize) -> RequestError {
        self.metrics.handed_back(events);
        let components = self.health.report().components;
        let stores = ["clickhouse", "inserts"].map(|name| components.get(name));
        RequestError::not_taken(why, stores.into_iter().flatten().all(|component| component.status == Status::Up))
    }
}

impl Refusal<'_> {
    fn dead_letter(&self, sender: &Sender) -> DeadLetter {
        let (now, rejected) = (now_ms(), &self.rejected);
        DeadLetter {
            project: sender.rules.project.clone(),
            id: Ulid::generate().to_string(),
            kind: Kind::Json,
            code: rejected.rejection.code().to_owned(),
            reason: rejected.rejection.to_string(),
            payload: dead_letters::cut(self.text.as_bytes()),
            event_id: rejected.event_id.clone().unwrap_or_default(),
            origin: Origin::of_key(sender.subject.name()),
            received_at: now,
            failed_at: now,
            state: DeadLetterState::Open,
            updated_at: now,
        }
    }
}
