//! The metrics that a project can query: built in, or registered by the project.
//!
//! ```text
//! GET  /v1/metrics -> definitions in memory
//! POST /v1/metrics -> read the document -> can it be answered? -> version n+1 by compare-and-set -> definitions in memory
//! ```
//!
//! Definitions are records of the control plane, so every instance has them by its snapshot: what is registered is known everywhere within
//! 5 s, and while ClickHouse is away the last ones stay, also after a restart. What changed is read by one task beside the requests. Of two
//! writers of the same version one fails.

pub mod document;
pub mod store;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tallyhouse_control::records::Record;
use tallyhouse_control::{Control, Kind, Snapshot};
use tallyhouse_schema::Catalogue;
use tokio_util::sync::CancellationToken;

use crate::authorize::Scope;
use crate::metric_definitions::{Definition, METRICS};
use crate::request::BadRequest;
use crate::request::body::{self, JsonPart};
use crate::request::body_reading::UnreadBody;
use store::RegisterError;

/// Registered metrics of one project at most.
const MOST_PER_PROJECT: usize = 1_000;

/// A registered metric.
#[derive(Debug, Clone)]
struct Registered {
    /// What it was read from.
    record: Arc<Record>,
    definition: Arc<Definition>,
    document: Value,
}

/// By project and name.
type Definitions = HashMap<Arc<str>, BTreeMap<Arc<str>, Registered>>;

/// What the control plane has.
#[derive(Default)]
struct Held {
    metrics: Definitions,
    /// That cannot be read, nor was a version before: by project and name. They are not parsed again.
    unreadable: HashMap<(Arc<str>, Arc<str>), Arc<Record>>,
}

/// The metrics of all projects. Clones share them.
#[derive(Clone)]
pub struct MetricRegistry(Arc<Inner>);

struct Inner {
    control: Control,
    held: ArcSwap<Held>,
    /// One reads at a time, or what was read before could replace what was read after.
    reading: tokio::sync::Mutex<()>,
}

/// Why a metric was not registered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotRegistered {
    /// The document did not arrive.
    #[error(transparent)]
    Unread(#[from] UnreadBody),
    #[error(transparent)]
    Bad(#[from] BadRequest),
    /// The project has as many as it may.
    #[error("the project has {MOST_PER_PROJECT} metrics, which is the most")]
    Full,
    #[error(transparent)]
    Store(#[from] RegisterError),
}

impl MetricRegistry {
    /// Those of this control plane. [`MetricRegistry::keep`] keeps them up to date.
    pub fn new(control: Control) -> Self {
        Self(Arc::new(Inner { control, held: ArcSwap::default(), reading: tokio::sync::Mutex::default() }))
    }

    /// The metric of that name, built in or of the project.
    pub fn find(&self, project: &str, name: &str) -> Option<Arc<Definition>> {
        document::shared_built_in(name)
            .or_else(|| Some(Arc::clone(&self.0.held.load().metrics.get(project)?.get(name)?.definition)))
    }

    /// All names that the project can use.
    pub fn names(&self, project: &str) -> Vec<String> {
        let held = self.0.held.load();
        let own = held.metrics.get(project).into_iter().flat_map(|metrics| metrics.keys().map(|name| name.to_string()));
        METRICS.iter().map(|metric| metric.name.to_owned()).chain(own).collect()
    }

    /// All metrics that the project can use, as JSON.
    pub fn list(&self, project: &str) -> Value {
        let built_in = METRICS.iter().map(|metric| {
            json!({"name": metric.name, "built_in": true, "version": 0, "expression": document::built_in(*metric),
                   "granularity": metric.granularity})
        });
        let held = self.0.held.load();
        let own = held.metrics.get(project).into_iter().flatten().map(|(name, registered)| {
            json!({"name": &**name, "built_in": false, "version": registered.definition.version,
                   "description": registered.document.get("description"), "expression": registered.document.get("expression")})
        });
        json!({ "data": built_in.chain(own).collect::<Vec<_>>() })
    }

    /// Registers what a body says. Returns the name and the version.
    pub async fn register(
        &self,
        scope: &Scope,
        catalogue: &Catalogue,
        raw: &[u8],
    ) -> Result<(String, u32), NotRegistered> {
        let project = scope.project();
        let held = self.0.held.load_full();
        let own = held.metrics.get(project);
        let written_out = |name: &str| own?.get(name).and_then(|metric| metric.document.get("expression").cloned());
        let value = body::parse(raw)?;
        let proposal = document::propose(&JsonPart::root(&value), &written_out, catalogue)?;
        let is_new = own.is_none_or(|own| !own.contains_key(&*proposal.name));
        if is_new && own.map_or(0, BTreeMap::len) >= MOST_PER_PROJECT {
            return Err(NotRegistered::Full);
        }
        let version = store::register(&self.0.control, project, &scope.audit_name(), &proposal).await?;
        // The caller's next question may be about it. It is registered, whether it is known here at once or not.
        if let Err(error) = self.0.control.refresh().await {
            tracing::warn!(%error, "a new metric is not known here yet");
        }
        self.catch_up().await;
        Ok((proposal.name, version))
    }

    /// Reads what the control plane has anew.
    async fn catch_up(&self) {
        let _reading = self.0.reading.lock().await;
        let (snapshot, held) = (self.0.control.snapshot(), self.0.held.load_full());
        match tokio::task::spawn_blocking(move || definitions(&snapshot, &held)).await {
            Ok(next) => self.0.held.store(Arc::new(next)),
            Err(error) => tracing::error!(%error, "definitions of metrics stay as they were"),
        }
    }

    /// Follows the control plane until `stopped`.
    pub async fn keep(&self, stopped: CancellationToken) {
        let mut changed = self.0.control.subscribe();
        let following = async {
            loop {
                self.catch_up().await;
                if changed.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        stopped.run_until_cancelled(following).await.unwrap_or(());
    }
}

/// The definitions in a snapshot. Only records that are new are parsed; one that cannot be read keeps the version before it.
fn definitions(snapshot: &Snapshot, held: &Held) -> Held {
    let mut next = Held::default();
    for record in snapshot.records(Kind::Metric).filter(|record| snapshot.has_project(&record.project)) {
        let before = held.metrics.get(&record.project).and_then(|metrics| metrics.get(&record.name));
        let name = (Arc::clone(&record.project), Arc::clone(&record.name));
        let registered = match before {
            None if held.unreadable.get(&name) == Some(record) => None,
            Some(before) if before.record == *record => Some(before.clone()),
            // The same record is not read again.
            before => parsed(record).or_else(|| Some(Registered { record: Arc::clone(record), ..before?.clone() })),
        };
        match registered {
            Some(registered) => drop(next.metrics.entry(name.0).or_default().insert(name.1, registered)),
            None => drop(next.unreadable.insert(name, Arc::clone(record))),
        }
    }
    next
}

fn parsed(record: &Arc<Record>) -> Option<Registered> {
    let Record { project, name, version, document, .. } = &**record;
    let read = || {
        let document: Value = serde_json::from_str(document).map_err(|error| error.to_string())?;
        let definition = document::definition(name, *version, &document).map_err(|error| error.to_string())?;
        Ok::<_, String>(Registered { record: Arc::clone(record), definition: Arc::new(definition), document })
    };
    read().inspect_err(|problem| tracing::error!(%project, %name, version, problem, "a metric cannot be read")).ok()
}
