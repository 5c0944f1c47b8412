//! Compares rollups with raw events in the background: every few minutes one hour of one project, by chance.
//!
//! ```text
//! hours that are known to differ, until one still does; then a project with events in one of the last three hours that are over
//!   -> a permit for what reads raw events -> compare on each shard -> clean | drifted: gauge, log, looked at again until it is mended
//! ```
//!
//! `rollups verify` compares everything; this finds what concerns many hours within a day. It goes as an ad hoc question does: behind real-time and
//! dashboards, one thread, and 30 s at most; of nobody's project, whose own questions do not wait for it. Several instances each look at their own.
//!
//! Failure cases: no permit, a comparison that takes too long or fails: counted, and tried again with another hour. An hour that is known to
//! differ and of which raw events may be gone can be compared no more: it is dropped.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use tallyhouse_control::Control;
use tallyhouse_service::breaker::Verdict;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::Shards;
use tallyhouse_sql::rollups::RollupsError;
use tallyhouse_sql::rollups::verify::{self, Hour};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::sql::{CountedProject, any_project_of};
use crate::store::{AdmissionRequest, Class, Store};
use crate::telemetry::{DriftMetrics, DriftOutcome};

const HOUR: i64 = 3_600;

/// An hour is looked at when it is over for so long, in seconds: its last events are stored by then.
const SETTLED: i64 = 900;

/// Hours back that are looked at: a project may keep raw events for no longer than a day.
const HOURS: i64 = 3;

/// Raw events of an hour are there for so long at least, in seconds.
const SURELY_KEPT: i64 = 24 * HOUR;

/// Hours that are known to differ; further ones show when these are mended.
const MOST_KNOWN: usize = 100;

/// How often it looks.
#[derive(Debug, Clone, Copy)]
pub struct DriftSettings {
    /// `DRIFT_CHECK_MINUTES`
    pub every: Duration,
    /// Between two looks at what differs.
    pub pause: Duration,
}

/// Looks for drift.
pub struct DriftWatch {
    store: Store,
    shards: Shards,
    control: Control,
    settings: DriftSettings,
    metrics: DriftMetrics,
    /// Cells that differ, by project and hour.
    known: BTreeMap<(String, i64), usize>,
    /// Of these, the one that was looked at last.
    last: Option<(String, i64)>,
}

impl DriftWatch {
    pub fn new(store: Store, shards: Shards, control: Control, settings: DriftSettings, metrics: DriftMetrics) -> Self {
        Self { store, shards, control, settings, metrics, known: BTreeMap::new(), last: None }
    }

    /// Until `stopped`.
    pub async fn run(mut self, stopped: CancellationToken) {
        // Not at the start: a fleet that is restarted has other things to do.
        let mut due = Instant::now() + self.settings.every.mul_f64(1.0 + rand::random::<f64>());
        while stopped.run_until_cancelled(tokio::time::sleep_until(due)).await.is_some() {
            due = Instant::now() + self.settings.every;
            if stopped.run_until_cancelled(self.turn()).await.is_none() {
                return;
            }
        }
    }

    /// Hours that are known to differ, in turn, until one still does or there is no time; and another one.
    pub async fn turn(&mut self) {
        let until = Instant::now() + self.settings.every;
        for _ in 0..self.known.len() {
            let Some((project, start)) = self.next_known() else { break };
            self.look(project.clone(), start).await;
            if self.known.contains_key(&(project, start)) || Instant::now() >= until {
                break;
            }
        }
        let over = (now_ms().div_euclid(1_000) - SETTLED).div_euclid(HOUR);
        let start = (over - 1 - i64::from(rand::random::<u32>()) % HOURS) * HOUR;
        match self.project(start).await {
            Ok(Some(project)) => self.look(project, start).await,
            Ok(None) => self.metrics.ended(DriftOutcome::Nothing),
            Err(outcome) => self.metrics.ended(outcome),
        }
    }

    fn next_known(&mut self) -> Option<(String, i64)> {
        let after = self.last.take();
        let next = match &after {
            Some(after) => self.known.range((Bound::Excluded(after), Bound::Unbounded)).next(),
            None => None,
        };
        self.last = next.or_else(|| self.known.iter().next()).map(|(place, _)| place.clone());
        self.last.clone()
    }

    /// Compares an hour: its start, in seconds since 1970.
    pub async fn look(&mut self, project: String, start: i64) {
        let outcome = match self.cells(&project, start).await {
            Ok(0) => {
                self.known.remove(&(project, start));
                DriftOutcome::Clean
            }
            Ok(cells) => {
                let hour = jiff::Timestamp::from_second(start).map(|hour| hour.to_string()).unwrap_or_default();
                tracing::error!(
                    project,
                    hour,
                    cells,
                    "rollups differ from raw events: deploy/runbooks/drift.md says what to do"
                );
                if self.known.len() < MOST_KNOWN || self.known.contains_key(&(project.clone(), start)) {
                    self.known.insert((project, start), cells);
                }
                DriftOutcome::Drifted
            }
            Err(DriftOutcome::Nothing) => {
                tracing::warn!(
                    project,
                    start,
                    "raw events of an hour whose rollups differed may be gone: it is not looked at any more"
                );
                self.known.remove(&(project, start));
                DriftOutcome::Nothing
            }
            Err(outcome) => outcome,
        };
        self.metrics.ended(outcome);
        self.metrics.drifted(self.known.values().sum());
    }

    async fn project(&self, hour: i64) -> Result<Option<String>, DriftOutcome> {
        let ask = AdmissionRequest { class: Class::AdHoc, project: String::new(), deadline: None };
        // Of many projects only some are read: from this one on, or from the first when none after it has events.
        let from = self.any_project();
        for from in [Some(from).filter(|from| !from.is_empty()), Some(String::new())].into_iter().flatten() {
            let rows = self.store.rows::<CountedProject>(&any_project_of(hour, &from), &ask).await;
            let found = rows.map_err(|_| DriftOutcome::NotAdmitted)?.into_iter().next();
            if let Some(found) = found {
                return Ok(Some(found.name));
            }
        }
        Ok(None)
    }

    /// A project by chance, whether it has events or not; empty when none is registered.
    fn any_project(&self) -> String {
        let snapshot = self.control.snapshot();
        let count = snapshot.projects().count().max(1);
        let chosen = snapshot.projects().nth(rand::random::<u32>() as usize % count);
        chosen.map(|project| project.name.to_string()).unwrap_or_default()
    }

    /// Cells of the hour that differ, on all shards. [`DriftOutcome::Nothing`]: raw events of it may be gone.
    async fn cells(&self, project: &str, start: i64) -> Result<usize, DriftOutcome> {
        let ask = AdmissionRequest { class: Class::AdHoc, project: String::new(), deadline: None };
        let is_old = start < now_ms().div_euclid(1_000) - SURELY_KEPT + HOUR;
        let (mut cells, mut has_raw) = (0, !is_old);
        for shard in self.shards.iter() {
            let mut permit = self.store.admit(&ask).await.map_err(|_| DriftOutcome::NotAdmitted)?;
            let settings = permit.settings().into_iter();
            let client = settings.fold(shard.client(), |client, (name, value)| client.with_setting(name, value));
            let compared = async {
                // Zero where a shard has no raw events of the project at all.
                let horizon = if is_old { verify::horizon_of(&client, project).await? } else { 0 };
                if start < horizon {
                    return Ok(None);
                }
                let report = verify::verify_hour(&client, Hour { project, start }, self.settings.pause).await?;
                Ok::<_, RollupsError>(Some((report, horizon > 0)))
            };
            let compared = tokio::time::timeout_at(permit.deadline(), compared).await;
            permit.finish(Verdict::Nothing);
            match compared {
                Ok(Ok(Some((report, has_more)))) => {
                    cells += report.drifts.len();
                    has_raw |= has_more;
                }
                Ok(Ok(None)) => return Err(DriftOutcome::Nothing),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "rollups were not compared with raw events");
                    return Err(DriftOutcome::Failed);
                }
                Err(_) => return Err(DriftOutcome::Failed),
            }
        }
        if cells > 0 && !has_raw { Err(DriftOutcome::Nothing) } else { Ok(cells) }
    }
}
