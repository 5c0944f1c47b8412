//! The records of privacy: suppressions, and the jobs of erasures.

use serde::{Deserialize, Serialize};
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_sql::erasure::DayRows;

use super::suppressions::{FOREVER, Suppression};
use crate::kind::Kind;
use crate::records::{Document, Record};

/// What the names of erasures begin with, among the jobs of a project.
pub const ERASURE: &str = "erasure-";

/// Which id of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SubjectKind {
    UserId,
    AnonymousId,
    /// All of a project that is deleted.
    Everybody,
}

/// The name of the suppression of everybody in a project that is deleted.
pub const EVERYBODY: &str = "everybody";

/// The name of the job that deletes a project.
pub const DELETION: &str = "deletion";

/// A person, as a keyed hash of an id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    pub kind: SubjectKind,
    /// 16 hexadecimal digits.
    pub hash: String,
}

impl Subject {
    pub fn of_user(hasher: &UserHasher, project: &str, id: &str) -> Self {
        Self { kind: SubjectKind::UserId, hash: format!("{:016x}", hasher.hash(project, id, "")) }
    }

    pub fn of_anonymous(hasher: &UserHasher, project: &str, id: &str) -> Self {
        Self { kind: SubjectKind::AnonymousId, hash: format!("{:016x}", hasher.hash(project, "", id)) }
    }

    /// `None` when it was not written by us.
    pub fn number(&self) -> Option<u64> {
        u64::from_str_radix(&self.hash, 16).ok()
    }
}

/// Whose events are not stored. Its name is the hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuppressionDocument {
    pub subject: Subject,
    /// Events that were received before, in milliseconds since 1970; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_ms: Option<i64>,
    /// The erasure.
    pub job: String,
}

impl Document for SuppressionDocument {
    const KIND: Kind = Kind::Suppression;
}

impl SuppressionDocument {
    pub fn suppression(&self, project: &str) -> Option<Suppression> {
        let before = self.before_ms.unwrap_or(FOREVER);
        Some(Suppression { project: project.to_owned(), hash: self.subject.number()?, before })
    }
}

/// How far an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Those who store events are told.
    Suppressing,
    /// Raw events and dead letters are deleted.
    Deleting,
    /// Rollups are computed again.
    Rebuilding,
    /// Answers are right. Replaced files leave the disk.
    RemovingFiles,
    Done,
}

/// An erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErasureDocument {
    pub state: Step,
    pub subjects: Vec<Subject>,
    /// Whether what they send from now on is dropped as well.
    pub keep_suppressed: bool,
    /// Found in data that is older than the suppression: ids are known by their hash only.
    #[serde(default)]
    pub is_again: bool,
    pub requested_ms: i64,
    /// Events that were received before are erased.
    pub before_ms: i64,
    /// Days with raw rows, and how many.
    #[serde(default)]
    pub days: Vec<DayRows>,
    /// Days whose rollups cannot be computed again: raw events of other people are gone.
    #[serde(default)]
    pub older_days: Vec<i32>,
    #[serde(default)]
    pub dead_letters: u64,
    /// Processes that store events and have confirmed.
    #[serde(default)]
    pub confirmed: u64,
    /// Those that run and did not confirm in time.
    #[serde(default)]
    pub unconfirmed: u64,
    #[serde(default)]
    pub partitions: u64,
    /// Rollups are; caches may not know of it yet.
    #[serde(default)]
    pub is_rebuilt: bool,
    /// How often inserts were held back in vain, and until when they are left alone, in milliseconds since 1970.
    #[serde(default)]
    pub held_back: u32,
    #[serde(default)]
    pub not_before_ms: i64,
    /// ClickHouse's clock when the last part was replaced, in seconds since 1970.
    #[serde(default)]
    pub replaced_at: u64,
    /// Replaced parts that are still on the disk.
    #[serde(default)]
    pub files_left: u64,
    pub updated_ms: i64,
    /// What went wrong last, while it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<serde_json::Value>,
}

impl Document for ErasureDocument {
    const KIND: Kind = Kind::Job;
}

impl ErasureDocument {
    /// Raw events that are erased.
    pub fn events(&self) -> u64 {
        self.days.iter().map(|day| day.rows).sum()
    }
}

/// The deletion of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletionDocument {
    pub state: DeletionStep,
    pub requested_ms: i64,
    /// ClickHouse's clock when the last part was replaced, in seconds since 1970.
    #[serde(default)]
    pub replaced_at: u64,
    #[serde(default)]
    pub files_left: u64,
}

/// How far a deletion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DeletionStep {
    Deleting,
    RemovingFiles,
    Done,
}

impl Document for DeletionDocument {
    const KIND: Kind = Kind::Job;
}

/// Whether a record is an erasure.
pub fn is_erasure(record: &Record) -> bool {
    record.kind == Kind::Job && record.name.starts_with(ERASURE)
}
