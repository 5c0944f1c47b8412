//! All records in force, as one process holds them: read by every request, never changed, replaced as a whole.

pub mod disk;
mod keys;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::http::HeaderValue;
use tallyhouse_schema::project::ProjectName;
use tallyhouse_service::access::Principal;
use tallyhouse_service::rate_limit::LimitsOf;

use crate::key_text::KeyDigest;
use crate::kind::Kind;
use crate::records::{ProjectDocument, Record};
use crate::store::Mark;

pub use keys::{FixedKey, FixedKeys, Key, KeyError};

use keys::KeyTable;

/// A project that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub name: ProjectName,
    pub version: u32,
    pub settings: ProjectDocument,
}

/// Jobs that are done, with what they say: the newest.
const DONE_JOBS: usize = 1_000;

type RecordId = (Kind, Arc<str>, Arc<str>);

/// All records in force.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Which state of the table it is; `None`: nothing has been read yet.
    mark: Option<Mark>,
    records: BTreeMap<RecordId, Arc<Record>>,
    projects: HashMap<Arc<str>, Arc<Project>>,
    keys: KeyTable,
    /// Of projects that have no record: those of development.
    limits_of_others: LimitsOf,
}

impl Snapshot {
    /// What is known without having read anything.
    pub fn of_fixed(fixed: &FixedKeys) -> Self {
        Self { keys: KeyTable::new(fixed), limits_of_others: fixed.limits, ..Self::default() }
    }

    /// The same with what was read: all records, or those that are newer. A version that is older than the one that is held is left out,
    /// so nothing goes back.
    #[must_use]
    pub fn with(&self, mark: Mark, read: impl IntoIterator<Item = Record>, fixed: &FixedKeys) -> Self {
        let mut records = self.records.clone();
        for record in read {
            let id = (record.kind, Arc::clone(&record.project), Arc::clone(&record.name));
            if records.get(&id).is_none_or(|held| held.version < record.version) {
                records.insert(id, Arc::new(record));
            }
        }
        self.of_records(Some(mark), records, fixed)
    }

    /// The same with exactly what was read: the table was put back to an older state, or cleared.
    #[must_use]
    pub fn only(&self, mark: Mark, read: impl IntoIterator<Item = Record>, fixed: &FixedKeys) -> Self {
        let id = |record: &Record| (record.kind, Arc::clone(&record.project), Arc::clone(&record.name));
        let records = read.into_iter().map(|record| (id(&record), Arc::new(record))).collect();
        self.of_records(Some(mark), records, fixed)
    }

    fn of_records(&self, mark: Option<Mark>, mut records: BTreeMap<RecordId, Arc<Record>>, fixed: &FixedKeys) -> Self {
        leave_out_old_jobs(&mut records);
        let projects: HashMap<_, _> =
            records.values().filter_map(project).map(|project| (Arc::clone(project.name.shared()), project)).collect();
        let stored = records.values().filter(|record| record.kind == Kind::Key);
        let keys = KeyTable::new(fixed).with(stored, &projects, &self.keys);
        Self { mark, records, projects, keys, limits_of_others: fixed.limits }
    }

    /// Which state of the table it is; `None`: nothing has been read yet, so what is not there may exist.
    pub const fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// The records of a kind in force, by project and name.
    pub fn records(&self, kind: Kind) -> impl Iterator<Item = &Arc<Record>> {
        let from = (kind, Arc::from(""), Arc::from(""));
        self.records.range(from..).map(|(_, record)| record).take_while(move |record| record.kind == kind)
    }

    /// Everything that is held.
    pub fn all_records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.records.values()
    }

    /// Those of one project.
    pub fn records_of<'a>(&'a self, kind: Kind, project: &'a str) -> impl Iterator<Item = &'a Arc<Record>> {
        let from = (kind, Arc::from(project), Arc::from(""));
        let records = self.records.range(from..).map(|(_, record)| record);
        records.take_while(move |record| record.kind == kind && &*record.project == project)
    }

    /// The record of a name.
    pub fn record(&self, kind: Kind, project: &str, name: &str) -> Option<&Arc<Record>> {
        self.records.get(&(kind, Arc::from(project), Arc::from(name)))
    }

    /// A project; `None`: there is none, or it was deleted.
    pub fn project(&self, name: &str) -> Option<&Arc<Project>> {
        self.projects.get(name)
    }

    /// Whether there was such a project, and it was deleted. Those of development have no record.
    pub fn is_deleted(&self, name: &str) -> bool {
        self.project(name).is_none() && self.record(Kind::Project, name, name).is_some()
    }

    /// What somebody may do. Operators have the limits of a project that says nothing.
    pub fn limits_of(&self, principal: &Principal) -> LimitsOf {
        match principal.project() {
            Some(name) => self.project(name).map_or(self.limits_of_others, |project| project.settings.limits()),
            None => LimitsOf::default(),
        }
    }

    /// Whether there is such a project. Those of development have keys and no record.
    pub fn has_project(&self, name: &str) -> bool {
        self.projects.contains_key(name)
            || self.keys().any(|key| key.is_fixed() && key.project.as_deref() == Some(name))
    }

    /// Until when a text opens its key, as far as is known now: `None` when it does not any more, `Some(None)` without an end.
    pub fn opens_until(&self, digest: &KeyDigest, now_ms: i64) -> Option<Option<i64>> {
        self.keys.opens_until(digest, now_ms)
    }

    /// All projects that are there, in no order.
    pub fn projects(&self) -> impl Iterator<Item = &Arc<Project>> {
        self.projects.values()
    }

    /// What a presented text opens.
    pub fn find(&self, text: &str, now_ms: i64) -> Result<&Arc<Key>, KeyError> {
        Ok(self.find_opening(text, now_ms)?.0)
    }

    /// The same, with the digest of the text.
    pub(crate) fn find_opening(&self, text: &str, now_ms: i64) -> Result<(&Arc<Key>, KeyDigest), KeyError> {
        self.keys.find(text, now_ms, self.mark.is_some())
    }

    /// Whether a page of this origin may send with some key: a preflight does not say with which.
    pub fn any_key_allows(&self, origin: &HeaderValue) -> bool {
        self.keys.any_allows(origin)
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.all()
    }

    /// How many versions are held, when none is missing: versions of a name have no gaps.
    pub(crate) fn versions(&self) -> u64 {
        self.records.values().map(|record| u64::from(record.version)).sum()
    }
}

/// Leaves out what jobs say that were done long ago: their reports would fill the memory of every process. The records stay, which count
/// towards the versions that are held; ClickHouse has the whole.
fn leave_out_old_jobs(records: &mut BTreeMap<RecordId, Arc<Record>>) {
    let from = (Kind::Job, Arc::from(""), Arc::from(""));
    let jobs = records.range(from..).take_while(|((kind, _, _), _)| *kind == Kind::Job);
    let done = jobs.filter(|(_, record)| record.document.contains(r#""state":"done""#));
    let mut done: Vec<_> = done.map(|(id, record)| (record.created_ms, id.clone())).collect();
    let Some(old) = done.len().checked_sub(DONE_JOBS) else { return };
    done.sort_unstable();
    for (_, id) in done.into_iter().take(old) {
        records.entry(id).and_modify(|record| {
            *record = Arc::new(Record { document: String::new(), ..Record::clone(record) });
        });
    }
}

fn project(record: &Arc<Record>) -> Option<Arc<Project>> {
    if record.kind != Kind::Project {
        return None;
    }
    let settings = match record.read::<ProjectDocument>() {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!(%error, "a project cannot be read, so its keys open nothing");
            return None;
        }
    };
    let name = record.name.parse().ok()?;
    (!settings.deleted).then(|| Arc::new(Project { name, version: record.version, settings }))
}
