//! [`LiveCatalogue`]: the declarations in force, per project, as a request needs them.
//!
//! A look is a load and a hash. What changes is compiled by one task beside the requests, and only what changed; until it is done the last
//! catalogue serves.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tallyhouse_schema::Catalogue;
use tallyhouse_schema::catalogue::{DeclarationError, EventType, EventTypeDeclaration};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::seeds::Seeds;
use crate::handle::Control;
use crate::kind::Kind;
use crate::records::{Record, SchemaDocument};
use crate::snapshot::{FixedKeys, Snapshot};
use crate::store::Mark;

/// When to look again without being told: seeds may not be recorded yet.
const AGAIN: Duration = Duration::from_secs(30);

/// The declarations of all projects. Clones share them.
#[derive(Clone)]
pub struct LiveCatalogue(Arc<Inner>);

struct Inner {
    control: Control,
    seeds: Seeds,
    held: ArcSwap<Held>,
    /// One builds at a time.
    building: Mutex<()>,
}

/// The catalogues of all projects at one time.
#[derive(Debug, Clone)]
pub struct Catalogues {
    /// Of projects with declarations of their own.
    pub own: BTreeMap<String, Arc<Catalogue>>,
    /// Of the others.
    pub others: Arc<Catalogue>,
}

impl From<Catalogue> for Catalogues {
    fn from(catalogue: Catalogue) -> Self {
        Self { own: BTreeMap::new(), others: Arc::new(catalogue) }
    }
}

/// Where a declaration is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Project,
    /// For all projects without one of their own.
    Installation,
    /// A file or the program; not recorded.
    Seed,
}

/// A declaration that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    /// Of the level that it is from; 0 of a seed.
    pub version: u32,
    pub level: Level,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<String, i64>,
    pub declaration: EventTypeDeclaration,
}

/// What was made of a record.
#[derive(Clone)]
struct Compiled {
    /// The version that was read last, whatever came of it: it is read once.
    version: u32,
    meaning: Meaning,
}

/// What the last version says that could be used.
#[derive(Clone)]
enum Meaning {
    /// None could: as if nothing were registered.
    Unknown,
    /// Nothing is declared any more.
    Undeclared,
    Declared(Arc<EventType>),
}

type Name = (Arc<str>, Arc<str>);

/// The catalogues of one state of the control plane.
struct Held {
    mark: Option<Mark>,
    compiled: BTreeMap<Name, Compiled>,
    /// Of projects without declarations of their own.
    others: Arc<Catalogue>,
    projects: HashMap<Arc<str>, Arc<Catalogue>>,
}

/// Records of one project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) names: usize,
    pub(super) declared: usize,
}

/// Whose records are looked at for a project, the first that says something first.
fn levels(project: &str) -> impl DoubleEndedIterator<Item = (&str, Level)> {
    let own = (!project.is_empty()).then_some((project, Level::Project));
    own.into_iter().chain([("", Level::Installation)])
}

fn of_project<'h>(
    compiled: &'h BTreeMap<Name, Compiled>,
    project: &'h str,
) -> impl Iterator<Item = (&'h str, &'h Compiled)> {
    let from = (Arc::from(project), Arc::from(""));
    let own = compiled.range(from..).take_while(move |((of, _), _)| &**of == project);
    own.map(|((_, name), compiled)| (&**name, compiled))
}

impl InForce {
    fn seed(declaration: &EventTypeDeclaration) -> Self {
        Self { version: 0, level: Level::Seed, since: BTreeMap::new(), declaration: declaration.clone() }
    }

    /// `None`: it was taken away.
    fn recorded(document: SchemaDocument, version: u32, level: Level) -> Option<Self> {
        let SchemaDocument { declaration, since } = document;
        declaration.map(|declaration| Self { version, level, since, declaration })
    }
}

impl LiveCatalogue {
    /// What is known at the start. Whoever makes it keeps it up to date ([`LiveCatalogue::keep`]).
    pub fn new(control: Control, seeds: Seeds) -> Self {
        let others = Arc::new(seeds.catalogue().clone());
        let none = Held { mark: None, compiled: BTreeMap::new(), others, projects: HashMap::new() };
        let held = none.next(&control.snapshot(), &seeds);
        Self(Arc::new(Inner { control, seeds, held: ArcSwap::from_pointee(held), building: Mutex::default() }))
    }

    /// Declarations that never change: for tests and benchmarks.
    pub fn fixed(catalogue: Catalogue) -> Self {
        Self::new(Control::fixed(FixedKeys::default()), Seeds::of_catalogue(catalogue))
    }

    /// Those that are in force for a project.
    pub fn of(&self, project: &str) -> Arc<Catalogue> {
        let held = self.0.held.load();
        Arc::clone(held.projects.get(project).unwrap_or(&held.others))
    }

    /// All that are in force: those of projects with their own, and those of the others.
    pub fn all(&self) -> Catalogues {
        let held = self.0.held.load();
        let own = held.projects.iter().map(|(project, catalogue)| (project.to_string(), Arc::clone(catalogue)));
        Catalogues { own: own.collect(), others: Arc::clone(&held.others) }
    }

    /// Where they are registered.
    pub fn control(&self) -> &Control {
        &self.0.control
    }

    /// The declaration of each type that is in force for a project, as written.
    pub fn declarations(&self, project: &str) -> BTreeMap<String, InForce> {
        let seeds = self.0.seeds.declarations().iter();
        let seeds = seeds.map(|declaration| (declaration.event_type.clone(), InForce::seed(declaration)));
        let mut declarations: BTreeMap<String, InForce> = seeds.collect();
        let snapshot = self.0.control.snapshot();
        for (project, level) in levels(project).rev() {
            for record in snapshot.records_of(Kind::Schema, project) {
                let Ok(document) = record.read::<SchemaDocument>() else { continue };
                match InForce::recorded(document, record.version, level) {
                    None => drop(declarations.remove(&*record.name)),
                    Some(in_force) => drop(declarations.insert(record.name.to_string(), in_force)),
                }
            }
        }
        declarations
    }

    /// The one of a type.
    pub fn declaration(&self, project: &str, name: &str) -> Option<InForce> {
        let snapshot = self.0.control.snapshot();
        for (project, level) in levels(project) {
            let Some(record) = snapshot.record(Kind::Schema, project, name) else { continue };
            let Ok(document) = record.read::<SchemaDocument>() else { continue };
            return InForce::recorded(document, record.version, level);
        }
        let mut seeds = self.0.seeds.declarations().iter();
        seeds.find(|declaration| declaration.event_type == name).map(InForce::seed)
    }

    /// How many names of types have a record of a project (`""`: of the installation), and how many of them are declared.
    pub(super) fn count(&self, project: &str) -> Count {
        let held = self.0.held.load();
        let mut count = Count { names: 0, declared: 0 };
        for compiled in of_project(&held.compiled, project).map(|(_, compiled)| compiled) {
            count.names += 1;
            count.declared += usize::from(!matches!(compiled.meaning, Meaning::Undeclared));
        }
        count
    }

    /// Takes over what the control plane of this process knows by now.
    pub async fn catch_up(&self) {
        let _building = self.0.building.lock().await;
        let (held, snapshot) = (self.0.held.load_full(), self.0.control.snapshot());
        if held.mark == snapshot.mark() {
            return;
        }
        let seeds = self.0.seeds.clone();
        let next = tokio::task::spawn_blocking(move || held.next(&snapshot, &seeds)).await;
        match next {
            Ok(next) => self.0.held.store(Arc::new(next)),
            Err(error) => tracing::error!(%error, "declarations of event types stay as they were"),
        }
    }

    /// Follows the control plane until `stop`, and records the seeds once.
    pub async fn keep(&self, stop: CancellationToken) {
        let mut changed = self.0.control.subscribe();
        let following = async {
            let mut are_recorded = false;
            loop {
                self.catch_up().await;
                if !are_recorded && self.0.control.snapshot().mark().is_some() {
                    are_recorded = self.0.seeds.record(&self.0.control).await;
                }
                match timeout(AGAIN, changed.changed()).await {
                    Ok(Ok(())) | Err(_) => {}
                    Ok(Err(_)) => return std::future::pending().await,
                }
            }
        };
        stop.run_until_cancelled(following).await.unwrap_or(());
    }
}

impl Held {
    fn next(&self, snapshot: &Snapshot, seeds: &Seeds) -> Self {
        let mut compiled = BTreeMap::new();
        for record in snapshot.records(Kind::Schema) {
            let name = (Arc::clone(&record.project), Arc::clone(&record.name));
            let now = match self.compiled.get(&name) {
                Some(before) if before.version == record.version => before.clone(),
                before => {
                    let kept = || before.map_or(Meaning::Unknown, |before| before.meaning.clone());
                    Compiled { version: record.version, meaning: compile(record).unwrap_or_else(kept) }
                }
            };
            compiled.insert(name, now);
        }
        let with = |catalogue: Catalogue, project: &str| {
            of_project(&compiled, project).fold(catalogue, |catalogue, (name, compiled)| match &compiled.meaning {
                Meaning::Unknown => catalogue,
                Meaning::Undeclared => catalogue.with(name, None),
                Meaning::Declared(event_type) => catalogue.with(name, Some(Arc::clone(event_type))),
            })
        };
        let others = Arc::new(with(seeds.catalogue().clone(), ""));
        let mut projects = HashMap::new();
        for (project, _) in compiled.keys().filter(|(project, _)| !project.is_empty()) {
            if !projects.contains_key(project) {
                projects.insert(Arc::clone(project), Arc::new(with((*others).clone(), project)));
            }
        }
        Self { mark: snapshot.mark(), compiled, others, projects }
    }
}

/// `None`: it cannot be used, and the version before stays in force.
fn compile(record: &Record) -> Option<Meaning> {
    let (project, name, version) = (&*record.project, &*record.name, record.version);
    let document = match record.read::<SchemaDocument>() {
        Ok(document) => document,
        Err(error) => {
            tracing::error!(%error, project, name, version, "a declaration cannot be read; the one before stays");
            return None;
        }
    };
    // Versions of a project and of the installation are counted apart.
    let revision = u64::from(version) * 2 + u64::from(!project.is_empty());
    match event_type(&document, revision) {
        Ok(event_type) => Some(event_type.map_or(Meaning::Undeclared, Meaning::Declared)),
        Err(error) => {
            tracing::error!(%error, project, name, version, "a declaration cannot be used; the one before stays");
            None
        }
    }
}

/// What a document says of its type.
pub(super) fn event_type(document: &SchemaDocument, revision: u64) -> Result<Option<Arc<EventType>>, DeclarationError> {
    let Some(declaration) = &document.declaration else { return Ok(None) };
    let declared = EventType::declared(declaration)?;
    Ok(Some(Arc::new(EventType { since: document.since.clone(), revision, ..declared })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(project: &str, name: &str, version: u32, document: &str) -> Record {
        Record {
            kind: Kind::Schema,
            project: project.into(),
            name: name.into(),
            version,
            document: document.to_owned(),
            created_by: "test".to_owned(),
            created_ms: 1,
        }
    }

    fn declaring(name: &str, dimension: &str) -> String {
        format!(
            r#"{{"declaration":{{"eventType":"{name}","dimensions":["{dimension}"]}},"since":{{"{dimension}":7}}}}"#
        )
    }

    fn sets(catalogue: &Catalogue, name: &str) -> Vec<String> {
        catalogue.event_type(name).sets.iter().skip(3).map(|set| set.key().to_owned()).collect()
    }

    #[test]
    fn a_project_has_its_own_else_the_installations_else_the_seeds() {
        let seeds = Seeds::of_catalogue(
            Catalogue::from_documents([
                r#"{"eventType":"a","dimensions":["seed"]}"#,
                r#"{"eventType":"b","dimensions":["seed"]}"#,
                r#"{"eventType":"c","dimensions":["seed"]}"#,
            ])
            .unwrap(),
        );
        let none = Held {
            mark: None,
            compiled: BTreeMap::new(),
            others: Arc::new(Catalogue::default()),
            projects: HashMap::new(),
        };
        let mark = |versions| Mark { versions, newest_ms: 1 };
        let fixed = FixedKeys::default();
        let records = [
            record("", "b", 1, &declaring("b", "everywhere")),
            record("shop", "a", 1, &declaring("a", "own")),
            record("shop", "c", 2, r#"{"declaration":null}"#),
            record("shop", "d", 1, "{"),
        ];
        let snapshot = Snapshot::default().with(mark(4), records, &fixed);
        let held = none.next(&snapshot, &seeds);
        let (shop, others) = (held.projects.get("shop").unwrap(), &held.others);
        assert_eq!(["a", "b", "c"].map(|name| sets(shop, name).join(",")), ["own", "everywhere", ""]);
        assert_eq!(["a", "b", "c"].map(|name| sets(others, name).join(",")), ["seed", "everywhere", "seed"]);
        assert!(!shop.declares("c") && !shop.declares("d"));
        assert_eq!(shop.event_type("a").since.get("own"), Some(&7));

        // What cannot be read leaves the version before in force; what did not change is not compiled again.
        let next = snapshot.with(mark(5), [record("shop", "a", 2, r#"{"declaration":{"colour":1}}"#)], &fixed);
        let after = held.next(&next, &seeds);
        assert_eq!(sets(after.projects.get("shop").unwrap(), "a"), ["own"]);
        let compiled = |held: &Held| match &held.compiled.get(&(Arc::from(""), Arc::from("b"))).unwrap().meaning {
            Meaning::Declared(event_type) => Arc::clone(event_type),
            Meaning::Unknown | Meaning::Undeclared => panic!("it is declared"),
        };
        assert!(Arc::ptr_eq(&compiled(&held), &compiled(&after)));
        // Nor is what cannot be read looked at again.
        let version =
            |held: &Held, name: &str| held.compiled.get(&(Arc::from("shop"), Arc::from(name))).unwrap().version;
        assert_eq!((version(&held, "d"), version(&after, "a")), (1, 2));
    }
}
