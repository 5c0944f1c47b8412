//! Removes a person's rows from raw events and dead letters, physically.
//!
//! ```text
//! name (ids into privacy_subjects, under a job) -> find days -> delete by partition, until no row is left -> forget the ids
//!                                                               parts that held the rows leave the disk later: `files_since`
//! ```
//!
//! No statement has an id in its text: ClickHouse keeps the text of mutations on the disk, and of queries in `system.query_log`. A
//! statement names the job, and reads the ids from `privacy_subjects`. Where only a keyed hash is known, [`name_by_hash`] finds the ids.
//!
//! All of it is about one server. Each shard of a cluster has its own rows, dead letters and `privacy_subjects`.
//!
//! Failure cases:
//! * killed, or ClickHouse restarts: a mutation that was accepted goes on by itself; every step may be done again, and finds what is left;
//! * a row that is inserted meanwhile is not seen by a mutation that began before: [`delete_events`] looks again, and so does the caller,
//!   who must have made sure that nothing from before comes any more;
//! * a mutation that takes long, or cannot be carried out (a full disk), is waited for within bounds; whoever calls again waits for it again,
//!   and no other is begun beside it.

use std::collections::BTreeSet;
use std::time::Duration;

use clickhouse::query::Query;
use clickhouse::{Client, Row};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::deadline::within;
use crate::error::StoreError;
use crate::person_dead_letters::Sought;
use crate::rollups::{STATEMENT_DEADLINE, execute, number, quoted};

/// Tables that hold ids of people, or states made of their hashes.
const TABLES: &str = "('events', 'rollup_1m', 'rollup_1h', 'rollup_1d', 'dead_letters', 'privacy_subjects', 'control')";

/// How long mutations are waited for at once. They rewrite the parts of whole weeks, which may take hours.
const MUTATED_WITHIN: Duration = Duration::from_secs(120);

/// How long one that fails is waited for: it may succeed at ClickHouse's next attempt.
const FAILING_WITHIN: Duration = Duration::from_secs(10);

/// How often what is left is deleted again.
const PASSES: u32 = 5;

/// Hashes in one parameter: ClickHouse refuses fields of more than 128 KiB.
const HASHES_AT_ONCE: usize = 1_000;

const POLL: Duration = Duration::from_millis(100);

/// An id of a person in a project.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// `user_id`.
    User(String),
    /// `anonymous_id`.
    Anonymous(String),
}

/// The rows of one job.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The project of the events.
    pub project: &'a str,
    /// Under which the ids are in `privacy_subjects`: ASCII, digits and `-`.
    pub job: &'a str,
    /// Rows that were received before, in milliseconds since 1970.
    pub before: i64,
}

/// Rows of a UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct DayRows {
    /// Days since 1970.
    pub day: i32,
    /// How many.
    pub rows: u64,
}

/// How far a deletion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionProgress {
    /// No row is left.
    Done,
    /// ClickHouse is still at it: call again.
    Pending,
    /// The same, and its last attempt failed.
    Failing,
}

/// The keyed hash under which a person is suppressed, and from when on rows are kept again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// As `tallyhouse_schema::user_hash` has it.
    pub hash: u64,
    /// In milliseconds since 1970.
    pub before: i64,
}

impl Target<'_> {
    fn subjects(&self, column: &str) -> String {
        let job = quoted(self.job);
        format!("SELECT {column} FROM tallyhouse.privacy_subjects WHERE job = {job} AND {column} != ''")
    }

    fn received_before(&self) -> String {
        format!("project_id = {} AND {}", quoted(self.project), self.before())
    }

    fn before(&self) -> String {
        format!("received_at < fromUnixTimestamp64Milli(toInt64({}), 'UTC')", self.before)
    }

    fn events(&self) -> String {
        format!(
            "{} AND (user_id IN ({}) OR anonymous_id IN ({}))",
            self.received_before(),
            self.subjects("user_id"),
            self.subjects("anonymous_id")
        )
    }

    fn dead_letters(&self) -> String {
        let ids = |column: &str| format!("(SELECT groupArray({column}) FROM ({}))", self.subjects(column));
        let and = format!(" AND {}", self.before());
        let (users, anonymous) = (ids("user_id"), ids("anonymous_id"));
        Sought { project: &quoted(self.project), and: &and, users: &users, anonymous: &anonymous }.condition()
    }
}

/// Writes down the people that a job is about.
pub async fn name(client: &Client, job: &str, ids: &[Id]) -> Result<(), StoreError> {
    for id in ids {
        let (user, anonymous) = match id {
            Id::User(id) => (id.as_str(), ""),
            Id::Anonymous(id) => ("", id.as_str()),
        };
        let sql = "INSERT INTO tallyhouse.privacy_subjects (job, user_id, anonymous_id) \
                   SELECT {job:String}, {user:String}, {anonymous:String}";
        let query = client.query(sql).param("job", job).param("user", user).param("anonymous", anonymous);
        within(STATEMENT_DEADLINE, query.with_setting("async_insert", "0").execute()).await?;
    }
    Ok(())
}

/// The ids that are written down for a job.
pub async fn named(client: &Client, job: &str) -> Result<BTreeSet<Id>, StoreError> {
    let sql = "SELECT DISTINCT user_id, anonymous_id FROM tallyhouse.privacy_subjects WHERE job = {job:String}";
    let rows = within(STATEMENT_DEADLINE, client.query(sql).param("job", job).fetch_all::<(String, String)>()).await?;
    let id = |(user, anonymous): (String, String)| match anonymous.is_empty() {
        true => Id::User(user),
        false => Id::Anonymous(anonymous),
    };
    Ok(rows.into_iter().map(id).collect())
}

/// The same where only hashes are known: the ids are found in the rows. Returns how many.
pub async fn name_by_hash(
    client: &Client,
    target: Target<'_>,
    key: [u8; 16],
    hashes: &[u64],
) -> Result<u64, StoreError> {
    let sql = format!(
        "INSERT INTO tallyhouse.privacy_subjects (job, user_id, anonymous_id) \
         SELECT DISTINCT {{job:String}}, if(kind = 'u', id, ''), if(kind = 'u', '', id) FROM ( \
           SELECT arrayJoin([('u', user_id), ('a', anonymous_id)]) AS of, of.1 AS kind, of.2 AS id \
           FROM tallyhouse.events WHERE {} ) WHERE id != '' AND {} IN {{hashes:Array(UInt64)}}",
        target.received_before(),
        hash_of("kind", "id")
    );
    let query = client.query(&sql).param("job", target.job).param("hashes", hashes);
    within(STATEMENT_DEADLINE, keyed(query, target.project, key).with_setting("async_insert", "0").execute()).await?;
    let count = format!("SELECT count() FROM tallyhouse.privacy_subjects WHERE job = {}", quoted(target.job));
    number(client, &count).await
}

/// Which of these hashes have rows from before their time: of a restored backup, or of a batch that was begun before.
pub async fn leftovers(
    client: &Client,
    project: &str,
    key: [u8; 16],
    suppressed: &[Hashed],
) -> Result<Vec<u64>, StoreError> {
    let sql = format!(
        "SELECT DISTINCT {hash} AS hash FROM ( \
           SELECT arrayJoin([('u', user_id), ('a', anonymous_id)]) AS of, of.1 AS kind, of.2 AS id, \
             toUnixTimestamp64Milli(received_at) AS received \
           FROM tallyhouse.events WHERE project_id = {{project:String}} \
             AND received_at < fromUnixTimestamp64Milli({{latest:Int64}}, 'UTC')) \
         WHERE id != '' AND received < transform(hash, {{hashes:Array(UInt64)}}, {{before:Array(Int64)}}, toInt64(0))",
        hash = hash_of("kind", "id")
    );
    let mut found = Vec::new();
    for suppressed in suppressed.chunks(HASHES_AT_ONCE) {
        let hashes: Vec<_> = suppressed.iter().map(|one| one.hash).collect();
        let before: Vec<_> = suppressed.iter().map(|one| one.before).collect();
        let latest = before.iter().copied().max().unwrap_or_default();
        let query = client.query(&sql).param("hashes", hashes).param("before", before).param("latest", latest);
        found.extend(
            within(STATEMENT_DEADLINE, keyed(query, project, key).with_setting("max_threads", "1").fetch_all::<u64>())
                .await?,
        );
    }
    Ok(found)
}

/// As `tallyhouse_schema::user_hash` has it.
fn hash_of(kind: &str, id: &str) -> String {
    format!(
        "greatest(sipHash64Keyed(({{k0:UInt64}}, {{k1:UInt64}}), concat({{project:String}}, unhex('FF'), {kind}, {id})), 1)"
    )
}

/// Binds the parameters of [`hash_of`].
fn keyed(query: Query, project: &str, key: [u8; 16]) -> Query {
    let [k0, k1] = [0, 8].map(|at| {
        let half: [u8; 8] = std::array::from_fn(|byte| key.get(at + byte).copied().unwrap_or_default());
        u64::from_le_bytes(half)
    });
    query.param("project", project).param("k0", k0).param("k1", k1)
}

/// The days with rows, by day.
pub async fn days(client: &Client, target: Target<'_>) -> Result<Vec<DayRows>, StoreError> {
    let sql = format!(
        "SELECT toInt32(toDate(ts, 'UTC')) AS day, count() AS rows FROM tallyhouse.events WHERE {} GROUP BY day ORDER BY day",
        target.events()
    );
    within(STATEMENT_DEADLINE, client.query_raw(&sql).fetch_all::<DayRows>()).await
}

/// Deletes raw rows, in up to five passes. Each waits for ClickHouse for up to two minutes, and ten seconds where it fails; then the others are
/// left to the next call. Rows are on the disk until the parts that held them are removed.
pub async fn delete_events(client: &Client, target: Target<'_>) -> Result<DeletionProgress, StoreError> {
    delete(client, "events", &target.events(), target.job).await
}

/// How many dead letters there are.
pub async fn dead_letters(client: &Client, target: Target<'_>) -> Result<u64, StoreError> {
    number(client, &format!("SELECT count() FROM tallyhouse.dead_letters WHERE {}", target.dead_letters())).await
}

/// The same of dead letters.
pub async fn delete_dead_letters(client: &Client, target: Target<'_>) -> Result<DeletionProgress, StoreError> {
    delete(client, "dead_letters", &target.dead_letters(), target.job).await
}

async fn delete(client: &Client, table: &str, condition: &str, job: &str) -> Result<DeletionProgress, StoreError> {
    for pass in 0..=PASSES {
        // Of the pass before, or of a call before.
        let mutated = mutated(client, table, job).await?;
        if mutated != DeletionProgress::Done {
            return Ok(mutated);
        }
        let sql = format!("SELECT DISTINCT _partition_id FROM tallyhouse.{table} WHERE {condition}");
        let partitions = within(STATEMENT_DEADLINE, client.query_raw(&sql).fetch_all::<String>()).await?;
        if partitions.is_empty() {
            return Ok(DeletionProgress::Done);
        }
        if pass == PASSES {
            break;
        }
        for partition in partitions {
            let sql = format!(
                "ALTER TABLE tallyhouse.{table} DELETE IN PARTITION ID {} WHERE {condition} SETTINGS mutations_sync = 0",
                quoted(&partition)
            );
            execute(client, &sql).await?;
        }
    }
    Err(StoreError::TimedOut)
}

#[derive(Row, Deserialize)]
struct Mutations {
    pending: u64,
    trouble: String,
}

/// Waits until no mutation of a job is left to do, within bounds.
async fn mutated(client: &Client, table: &str, job: &str) -> Result<DeletionProgress, StoreError> {
    let (until, mut failing_since) = (Instant::now() + MUTATED_WITHIN, None::<Instant>);
    let sql = "SELECT countIf(NOT is_done) AS pending, anyIf(latest_fail_reason, NOT is_done AND latest_fail_reason != '') AS trouble \
               FROM system.mutations WHERE database = 'tallyhouse' AND table = {table:String} AND position(command, {job:String}) > 0";
    loop {
        let query = client.query(sql).param("table", table).param("job", job);
        let Mutations { pending, trouble } = within(STATEMENT_DEADLINE, query.fetch_one::<Mutations>()).await?;
        if pending == 0 {
            return Ok(DeletionProgress::Done);
        }
        let now = Instant::now();
        failing_since = (!trouble.is_empty()).then(|| failing_since.unwrap_or(now));
        if failing_since.is_some_and(|since| now >= until || since + FAILING_WITHIN <= now) {
            tracing::warn!(table, job, pending, "a deletion is not carried out yet: see system.mutations");
            return Ok(DeletionProgress::Failing);
        }
        if now >= until {
            return Ok(DeletionProgress::Pending);
        }
        sleep(POLL).await;
    }
}

/// Removes the ids of a job.
pub async fn forget(client: &Client, job: &str) -> Result<(), StoreError> {
    let sql = format!(
        "ALTER TABLE tallyhouse.privacy_subjects DELETE WHERE job = {} SETTINGS mutations_sync = 1",
        quoted(job)
    );
    execute(client, &sql).await
}

/// The server's clock, in seconds since 1970: what [`files_since`] is asked with.
pub async fn now(client: &Client) -> Result<u64, StoreError> {
    number(client, "SELECT toUInt64(toUnixTimestamp(now()))").await
}

/// Replaced parts that are still on the disk, of those that were replaced up to a time. ClickHouse keeps them for `old_parts_lifetime`
/// (8 min), in case a power cut takes their successors.
pub async fn files_since(client: &Client, until: u64) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT count() FROM system.parts WHERE database = 'tallyhouse' AND table IN {TABLES} AND NOT active \
         AND remove_time <= toDateTime({until})"
    );
    number(client, &sql).await
}

/// Whether a project has events or dead letters: those of development have no record.
pub async fn has_project(client: &Client, project: &str) -> Result<bool, StoreError> {
    let sql = "SELECT count() FROM (SELECT 1 FROM tallyhouse.events WHERE project_id = {project:String} LIMIT 1 \
               UNION ALL SELECT 1 FROM tallyhouse.dead_letters WHERE project_id = {project:String} LIMIT 1)";
    let rows = within(STATEMENT_DEADLINE, client.query(sql).param("project", project).fetch_all::<u64>()).await?;
    Ok(rows.first().is_some_and(|found| *found > 0))
}

/// Removes all that a project has in raw events, rollups and dead letters, table by table, each as [`delete_events`] does.
pub async fn delete_project(client: &Client, project: &str) -> Result<DeletionProgress, StoreError> {
    let condition = format!("project_id = {}", quoted(project));
    for table in ["events", "rollup_1m", "rollup_1h", "rollup_1d", "dead_letters"] {
        let deleted = delete(client, table, &condition, &condition).await?;
        if deleted != DeletionProgress::Done {
            return Ok(deleted);
        }
    }
    Ok(DeletionProgress::Done)
}

/// Forgets what is kept beside events: questions that were asked often, and the documents of the project's record, but for the version in force: the
/// older ones have the random part of its key. Rows of that table stay, so that versions go on counting.
pub async fn forget_project(client: &Client, project: &str) -> Result<(), StoreError> {
    let project = quoted(project);
    let older = format!(
        "kind = 'project' AND project_id = {project} AND document != '' AND version < (SELECT max(version) FROM tallyhouse.control \
         WHERE kind = 'project' AND project_id = {project})"
    );
    let documents =
        format!("ALTER TABLE tallyhouse.control UPDATE document = '' WHERE {older} SETTINGS mutations_sync = 1");
    execute(client, &documents).await?;
    let questions =
        format!("ALTER TABLE tallyhouse.hot_questions DELETE WHERE project_id = {project} SETTINGS mutations_sync = 1");
    execute(client, &questions).await
}
