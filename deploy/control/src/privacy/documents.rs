//! The records of privacy: suppressions, and the jobs of erasures.

use std::collections::{BTreeMap, BTreeSet};

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

/// What an erasure finds and does on one shard; a single server is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnShard {
    /// Days with raw rows, and how many.
    #[serde(default)]
    pub days: Vec<DayRows>,
    /// Days whose rollups cannot be computed again: raw events of other people are gone.
    #[serde(default)]
    pub older_days: Vec<i32>,
    #[serde(default)]
    pub dead_letters: u64,
    #[serde(default)]
    pub partitions: u64,
    /// Rollups are; caches may not know of it yet.
    #[serde(default)]
    pub is_rebuilt: bool,
    /// The shard's clock when the last part was replaced, in seconds since 1970.
    #[serde(default)]
    pub replaced_at: u64,
    /// Replaced parts that are still on the disk.
    #[serde(default)]
    pub files_left: u64,
}

impl OnShard {
    /// Days whose rollups are computed again.
    pub fn days_to_rebuild(&self) -> BTreeSet<i32> {
        self.days.iter().map(|day| day.day).filter(|day| !self.older_days.contains(day)).collect()
    }

    /// Raw events that are erased.
    pub fn events(&self) -> u64 {
        self.days.iter().map(|day| day.rows).sum()
    }
}

/// A process that stores events, is not heard of, and has not stopped in order: what it has taken is not stored, or not without being judged,
/// once it is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SilentProcess {
    /// Its name among those that confirm.
    pub process: String,
    pub last_heard_of: String,
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
    /// On the first shard.
    #[serde(flatten)]
    pub home: OnShard,
    /// On the others of a cluster, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OnShard>,
    /// Processes that store events and have confirmed.
    #[serde(default)]
    pub confirmed: u64,
    /// Those that did not confirm in time, and those that are not heard of any more without having stopped in order.
    #[serde(default)]
    pub unconfirmed: u64,
    /// Of these, the ones that are not heard of: the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentProcess>,
    /// How often inserts were held back in vain, and until when they are left alone, in milliseconds since 1970.
    #[serde(default)]
    pub held_back: u32,
    #[serde(default)]
    pub not_before_ms: i64,
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
    /// By shard, in order.
    pub fn shards(&self) -> impl Iterator<Item = &OnShard> {
        std::iter::once(&self.home).chain(&self.others)
    }

    /// The same, to be changed; for so many.
    pub fn shards_mut(&mut self, count: usize) -> impl Iterator<Item = &mut OnShard> {
        self.others.resize_with(self.others.len().max(count.saturating_sub(1)), OnShard::default);
        std::iter::once(&mut self.home).chain(&mut self.others)
    }

    /// A number of all shards together.
    pub fn sum(&self, number: impl Fn(&OnShard) -> u64) -> u64 {
        self.shards().map(number).sum()
    }

    /// Raw events that are erased, by day.
    pub fn days(&self) -> BTreeMap<i32, u64> {
        let mut days = BTreeMap::new();
        for DayRows { day, rows } in self.shards().flat_map(|shard| &shard.days) {
            *days.entry(*day).or_default() += rows;
        }
        days
    }

    /// Days that cannot be computed again on some shard.
    pub fn older_days(&self) -> BTreeSet<i32> {
        self.shards().flat_map(|shard| &shard.older_days).copied().collect()
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
    /// The same of the other shards of a cluster, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced_at_others: Vec<u64>,
    #[serde(default)]
    pub files_left: u64,
    /// Why it does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::erasure::tests::document;

    fn on(days: &[(i32, u64)], older: &[i32]) -> OnShard {
        let days = days.iter().map(|(day, rows)| DayRows { day: *day, rows: *rows }).collect();
        OnShard { days, older_days: older.to_vec(), dead_letters: 1, ..OnShard::default() }
    }

    #[test]
    fn a_job_of_one_server_reads_as_before_and_shards_are_summed() {
        // As the version before wrote it.
        let text = r#"{"state":"rebuilding","subjects":[],"keepSuppressed":false,"requestedMs":1,"beforeMs":1,
            "days":[{"day":3,"rows":2}],"olderDays":[3],"deadLetters":1,"confirmed":1,"partitions":4,"isRebuilt":true,"replacedAt":9,
            "filesLeft":0,"updatedMs":1}"#;
        let one: ErasureDocument = serde_json::from_str(text).unwrap();
        let home = OnShard { partitions: 4, is_rebuilt: true, replaced_at: 9, ..on(&[(3, 2)], &[3]) };
        assert_eq!((&one.home, one.others.len(), one.confirmed), (&home, 0, 1));
        let written = serde_json::to_value(&one).unwrap();
        assert!(written.get("others").is_none() && written["days"][0]["rows"] == 2, "{written}");

        let mut two = document();
        for (shard, found) in two.shards_mut(2).zip([on(&[(1, 2), (3, 1)], &[1]), on(&[(1, 5)], &[])]) {
            *shard = found;
        }
        assert_eq!(two.days(), BTreeMap::from([(1, 7), (3, 1)]));
        assert_eq!((two.sum(OnShard::events), two.sum(|shard| shard.dead_letters)), (8, 2));
        assert_eq!(two.older_days(), BTreeSet::from([1]));
        let to_rebuild: Vec<_> = two.shards().map(OnShard::days_to_rebuild).collect();
        assert_eq!(to_rebuild, [BTreeSet::from([3]), BTreeSet::from([1])], "each shard has its own raw rows");
        assert_eq!(two.shards_mut(1).count(), 2, "what was found is kept");
        let again: ErasureDocument = serde_json::from_str(&serde_json::to_string(&two).unwrap()).unwrap();
        assert_eq!(again, two);
    }
}
