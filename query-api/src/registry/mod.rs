//! The metrics that a project can query: built in, or registered by the project.
//!
//! ```text
//! GET  /v1/metrics -> snapshot in memory
//! POST /v1/metrics -> read the document -> can it be answered? -> insert version n+1 under its own token -> who won? -> snapshot
//! ```
//!
//! ClickHouse keeps the definitions ([`store`]). Every instance has all of them in memory and reads them anew every
//! [`REFRESH`], so a registered metric is known everywhere after that time. While ClickHouse is away the last snapshot
//! stays in use. Creating is compare-and-set: of two writers of the same version one fails.

pub mod document;
pub mod store;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};
use tallyhouse_schema::Catalogue;
use tokio_util::sync::CancellationToken;

use crate::authorize::Scope;
use crate::metric_definitions::{Definition, METRICS};
use crate::request::BadRequest;
use crate::request::body::{self, JsonPart};
use crate::request::body_reading::UnreadBody;
use store::{Definitions, RegisterError, Stored};

/// How often definitions are read.
pub const REFRESH: Duration = Duration::from_secs(5);

/// Registered metrics of one project at most.
const MOST_PER_PROJECT: usize = 1_000;

/// A registered metric.
#[derive(Debug, Clone)]
struct Registered {
    definition: Arc<Definition>,
    document: Value,
}

type Snapshot = HashMap<String, BTreeMap<String, Registered>>;

/// The metrics of all projects. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MetricRegistry {
    snapshot: Arc<RwLock<Arc<Snapshot>>>,
    reading: Arc<tokio::sync::Mutex<()>>,
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
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The metric of that name, built in or of the project.
    pub fn find(&self, project: &str, name: &str) -> Option<Arc<Definition>> {
        document::shared_built_in(name)
            .or_else(|| Some(Arc::clone(&self.snapshot().get(project)?.get(name)?.definition)))
    }

    /// All names that the project can use.
    pub fn names(&self, project: &str) -> Vec<String> {
        let snapshot = self.snapshot();
        let own = snapshot.get(project).into_iter().flat_map(|metrics| metrics.keys().cloned());
        METRICS.iter().map(|metric| metric.name.to_owned()).chain(own).collect()
    }

    /// All metrics that the project can use, as JSON.
    pub fn list(&self, project: &str) -> Value {
        let built_in = METRICS.iter().map(|metric| {
            json!({"name": metric.name, "built_in": true, "version": 0, "expression": document::built_in(*metric),
                   "granularity": metric.granularity})
        });
        let snapshot = self.snapshot();
        let own = snapshot.get(project).into_iter().flatten().map(|(name, registered)| {
            json!({"name": name, "built_in": false, "version": registered.definition.version,
                   "description": registered.document.get("description"), "expression": registered.document.get("expression")})
        });
        json!({ "data": built_in.chain(own).collect::<Vec<_>>() })
    }

    /// Registers what a body says. Returns the name and the version.
    pub async fn register(
        &self,
        definitions: &Definitions,
        scope: &Scope,
        catalogue: &Catalogue,
        raw: &[u8],
    ) -> Result<(String, u32), NotRegistered> {
        let project = scope.project();
        let snapshot = self.snapshot();
        let own = snapshot.get(project);
        let written_out = |name: &str| own?.get(name).and_then(|metric| metric.document.get("expression").cloned());
        let value = body::parse(raw)?;
        let proposal = document::propose(&JsonPart::root(&value), &written_out, catalogue)?;
        let is_new = own.is_none_or(|own| !own.contains_key(&proposal.name));
        if is_new && own.map_or(0, BTreeMap::len) >= MOST_PER_PROJECT {
            return Err(NotRegistered::Full);
        }
        let version = definitions.register(project, scope.caller(), &proposal).await?;
        // The caller's next question may be about it. It is registered, whether it is known here at once or not.
        if let Err(error) = self.refresh(definitions).await {
            tracing::warn!(%error, "a new metric is not known here yet");
        }
        Ok((proposal.name, version))
    }

    /// Reads all definitions.
    pub async fn refresh(&self, definitions: &Definitions) -> Result<(), RegisterError> {
        // One at a time, or what was read before could replace what was read after.
        let _reading = self.reading.lock().await;
        let mut snapshot = Snapshot::new();
        for Stored { project_id, name, version, document } in definitions.read().await? {
            match parsed(&name, version, &document) {
                Ok(registered) => drop(snapshot.entry(project_id).or_default().insert(name, registered)),
                Err(problem) => tracing::error!(project_id, name, version, problem, "a metric cannot be read"),
            }
        }
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        Ok(())
    }

    /// Reads them again and again until `stopped`.
    pub async fn watch(&self, definitions: &Definitions, stopped: CancellationToken) {
        let watching = async {
            loop {
                if let Err(error) = self.refresh(definitions).await {
                    tracing::debug!(%error, "metrics could not be read; the last ones stay");
                }
                tokio::time::sleep(REFRESH).await;
            }
        };
        stopped.run_until_cancelled(watching).await.unwrap_or(());
    }
}

fn parsed(name: &str, version: u32, text: &str) -> Result<Registered, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let definition = document::definition(name, version, &document).map_err(|error| error.to_string())?;
    Ok(Registered { definition: Arc::new(definition), document })
}
