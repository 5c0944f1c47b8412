//! Compares rollups with raw events in the background: every few minutes one hour of one project, by chance.
//!
//! ```text
//! an hour that is known to differ, else a project with events in one of the last three hours that are over
//!   -> a permit for what reads raw events -> compare on each shard -> clean | drifted: gauge, log, looked at again until it is mended
//! ```
//!
//! `rollups verify` compares everything; this finds what concerns many hours within a day. It goes as an ad hoc question of that project does: behind
//! real-time and dashboards, one thread, and 30 s at most. Several instances each look at their own.
//!
//! Failure cases: no permit, a comparison that takes too long or fails: counted, and tried again with another hour.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use tallyhouse_service::breaker::Verdict;
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::Shards;
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
    settings: DriftSettings,
    metrics: DriftMetrics,
    /// Cells that differ, by project and hour.
    known: BTreeMap<(String, i64), usize>,
    /// Of these, the one that was looked at last.
    last: Option<(String, i64)>,
}

impl DriftWatch {
    pub fn new(store: Store, shards: Shards, settings: DriftSettings, metrics: DriftMetrics) -> Self {
        Self { store, shards, settings, metrics, known: BTreeMap::new(), last: None }
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

    /// One hour that is known to differ, in turn, and another one.
    pub async fn turn(&mut self) {
        if let Some((project, start)) = self.next_known() {
            self.look(project, start).await;
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
            Err(outcome) => outcome,
        };
        self.metrics.ended(outcome);
        self.metrics.drifted(self.known.values().sum());
    }

    async fn project(&self, hour: i64) -> Result<Option<String>, DriftOutcome> {
        let ask = AdmissionRequest { class: Class::AdHoc, project: String::new(), deadline: None };
        let rows = self.store.rows::<CountedProject>(&any_project_of(hour), &ask).await;
        rows.map(|rows| rows.into_iter().next().map(|row| row.name)).map_err(|_| DriftOutcome::NotAdmitted)
    }

    /// Cells of the hour that differ, on all shards.
    async fn cells(&self, project: &str, start: i64) -> Result<usize, DriftOutcome> {
        let ask = AdmissionRequest { class: Class::AdHoc, project: project.to_owned(), deadline: None };
        let mut cells = 0;
        for shard in self.shards.iter() {
            let mut permit = self.store.admit(&ask).await.map_err(|_| DriftOutcome::NotAdmitted)?;
            let settings = permit.settings().into_iter();
            let client = settings.fold(shard.client(), |client, (name, value)| client.with_setting(name, value));
            let compared = verify::verify_hour(&client, Hour { project, start }, self.settings.pause);
            let compared = tokio::time::timeout_at(permit.deadline(), compared).await;
            permit.finish(Verdict::Nothing);
            match compared {
                Ok(Ok(report)) => cells += report.drifts.len(),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "rollups were not compared with raw events");
                    return Err(DriftOutcome::Failed);
                }
                Err(_) => return Err(DriftOutcome::Failed),
            }
        }
        Ok(cells)
    }
}
