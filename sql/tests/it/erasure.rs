//! A person's rows leave the disk, and rollups are as if they had never been there.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tallyhouse_schema::event::Event;
use tallyhouse_schema::user_hash::UserHasher;
use tallyhouse_schema::wire;
use tallyhouse_sql::Connection;
use tallyhouse_sql::erasure::{self, Hashed, Id, Target};
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::person_export;
use tallyhouse_sql::rollups::Selection;
use tallyhouse_sql::rollups::rebuild::{self, Options};
use tallyhouse_sql::rollups::verify::verify;
use tallyhouse_testkit::ingest_service::block_of;
use tallyhouse_testkit::{Folder, ask, engine, engine_in, execute, new_project};

use super::rollups::merged;

const KEY: [u8; 16] = [5; 16];
const DAY_MS: i64 = 86_400_000;

/// Events of a day each, of `users` in turn; every third has a cookie as well.
async fn insert(writer: &Connection, project: &str, users: &[&str], rows: u64, days: u64) {
    let hasher = UserHasher::new(KEY);
    let hashes: Vec<String> = users.iter().map(|user| hasher.hash(project, user, "").to_string()).collect();
    // Hashes are those of another project's name where two are compared.
    let sql = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, value, user_id, anonymous_id, user_hash, country, dims, \
           received_at, retention_days) \
         SELECT '{project}', concat('e', toString(number)), ['view', 'purchase'][number % 2 + 1], \
           toDateTime64(toStartOfDay(now('UTC')) - toIntervalDay(number % {days}) - toIntervalMinute(number % 700), 3, 'UTC'), \
           number % 100, {users:?}[number % {count} + 1] AS u, if(number % 3 = 0, concat('cookie-', u), ''), \
           [{hashes}][number % {count} + 1], ['DE', 'FR', ''][number % 3 + 1] AS c, [('country', c)], now64(3) - 5, 730 \
         FROM numbers({rows}) SETTINGS async_insert = 0",
        hashes = hashes.join(", "),
        count = users.len(),
    );
    execute(writer, &sql.replace('"', "'")).await.unwrap();
}

async fn count(writer: &Connection, table: &str, condition: &str) -> u64 {
    ask(writer, &format!("SELECT count() FROM tallyhouse.{table} WHERE {condition}")).await.unwrap().parse().unwrap()
}

fn now_ms() -> i64 {
    tallyhouse_service::clock::now_ms()
}

/// Files below a folder that hold some bytes.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(_) if std::fs::read(&path).is_ok_and(|held| memmem(&held, bytes)) => {
                    found.push(path.display().to_string());
                }
                _ => {}
            }
        }
    }
    found
}

fn memmem(held: &[u8], bytes: &[u8]) -> bool {
    held.windows(bytes.len()).any(|window| window == bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_leaves_the_disk_and_every_rollup() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    // Compressed, an id is in no file that can be searched.
    for column in ["user_id", "anonymous_id"] {
        execute(&writer, &format!("ALTER TABLE tallyhouse.events MODIFY COLUMN {column} String CODEC(NONE)"))
            .await
            .unwrap();
    }
    tallyhouse_testkit::remove_replaced_files_soon(&writer).await;
    let others = ["bob-7f3a", "cat-91d2", "dan-0b6e"];
    let all = ["ann-5c81d7e2", "bob-7f3a", "cat-91d2", "dan-0b6e"];
    insert(&writer, "shop", &all, 8_000, 12).await;
    insert(&writer, "neighbour", &all, 400, 12).await;
    insert_dead_letters(&writer).await;
    let parts = folder.path().join("data");
    assert!(!files_with(&parts, b"ann-5c81d7e2").is_empty(), "the search finds what is there");

    let client = writer.client();
    let target = Target { project: "shop", job: "erasure-1", before: now_ms() };
    let ids = [Id::User("ann-5c81d7e2".to_owned()), Id::Anonymous("cookie-ann-5c81d7e2".to_owned())];
    erasure::name(&client, target.job, &ids).await.unwrap();
    let days = erasure::days(&client, target).await.unwrap();
    assert_eq!(days.iter().map(|day| day.rows).sum::<u64>(), 2_000);
    assert_eq!(erasure::dead_letters(&client, target).await.unwrap(), 8);
    let mut read = person_export::read(&client, "dead_letters", "shop", "ann-5c81d7e2", "").unwrap();
    let mut exported = Vec::new();
    while let Some(piece) = read.next().await.unwrap() {
        exported.extend_from_slice(&piece);
    }
    assert_eq!(String::from_utf8(exported).unwrap().lines().count(), 7, "by this id alone");
    // What they send while it goes on is kept.
    let after = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, user_id, received_at, retention_days) \
         SELECT 'shop', 'after', 'view', fromUnixTimestamp64Milli({before}), 'ann-5c81d7e2', fromUnixTimestamp64Milli({before}), 730 \
         SETTINGS async_insert = 0",
        before = target.before
    );
    execute(&writer, &after).await.unwrap();
    erasure::delete_events(&client, target).await.unwrap();
    erasure::delete_dead_letters(&client, target).await.unwrap();
    assert_eq!(count(&writer, "events", "user_id = 'ann-5c81d7e2' AND project_id = 'shop'").await, 1);
    assert_eq!(count(&writer, "events", "project_id = 'neighbour'").await, 400);
    assert_eq!(
        ask(&writer, "SELECT groupArray(id) FROM (SELECT id FROM tallyhouse.dead_letters ORDER BY id)").await.unwrap(),
        "['a note','a note, cut','another id','another project','broken before its project','no record']"
    );

    let days: BTreeSet<i32> = days.iter().map(|day| day.day).collect();
    let options = Options {
        selection: Selection::of_days("shop", days),
        is_everything: true,
        gate: Duration::from_secs(30),
        pause: Duration::from_millis(20),
    };
    let mut changed = BTreeSet::new();
    rebuild::rebuild(&client, &options, async |days| changed.extend(days)).await.unwrap();
    assert_eq!(changed.len(), options.selection.days.as_ref().unwrap().len());
    // As if they had never been there.
    insert_without(&writer, &all, &others).await;
    execute(&writer, &after.replace("'shop'", "'expected'")).await.unwrap();
    assert_eq!(merged(&writer, "shop").await, merged(&writer, "expected").await);
    for project in ["shop", "neighbour"] {
        let selection = Selection { project: Some(project.to_owned()), days: None, ..options.selection.clone() };
        assert!(verify(&client, &selection, options.pause).await.unwrap().drifts.is_empty(), "{project}");
    }

    for statement in [
        "TRUNCATE TABLE tallyhouse.dead_letters SYNC",
        "ALTER TABLE tallyhouse.events DELETE WHERE event_id = 'after' OR project_id = 'neighbour' SETTINGS mutations_sync = 1",
    ] {
        execute(&writer, statement).await.unwrap();
    }
    erasure::forget(&client, target.job).await.unwrap();
    let replaced = erasure::now(&client).await.unwrap();
    // ClickHouse looks for them up to 40 s after a table was made, whatever was set since.
    let gone = async {
        while erasure::files_since(&client, replaced).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(120), gone).await.is_ok(), "replaced files are gone");
    let left = files_with(&parts, b"ann-5c81d7e2");
    assert!(left.is_empty(), "{left:?}");
    engine.stop(Duration::from_secs(10)).await;
}

/// A record as Kafka has it.
fn record(project: &str, event_id: &str, user_id: &str) -> Vec<u8> {
    let mut record = Vec::new();
    let event = Event {
        ts: now_ms() - 1_000,
        received_at: now_ms(),
        event_id: event_id.into(),
        event_type: "view".into(),
        user_id: user_id.into(),
        ..Event::default()
    };
    wire::encode(project, &event, &mut record);
    record
}

/// Of Ann and of others; ids say which.
async fn insert_dead_letters(writer: &Connection) {
    let ann = "ann-5c81d7e2";
    let mut unknown = record("shop", "e", ann);
    *unknown.first_mut().unwrap() = 9;
    let mut valued = Vec::new();
    wire::encode("shop", &Event { value: Some(1.5), user_id: ann.into(), ..Event::default() }, &mut valued);
    let mut broken = record("shop", "e", ann);
    broken.drain(..3);
    let json = |text: &str| ("json", text.as_bytes().to_vec(), "shop");
    for (id, (kind, payload, project)) in [
        ("1", json(r#"{"userId":"ann-5c81d7e2"}"#)),
        ("2", json(r#"{"anonymous_id":"cookie-ann-5c81d7e2"}"#)),
        ("3", json(r#"{"userId" : "ann-5c81d7e2","properties":{"#)),
        ("4", json(r#"{"user_id":"\u0061nn-5c81d7e2","properties":{"#)),
        ("5", ("record", record("shop", "e", ann), "shop")),
        ("6", ("record", unknown, "")),
        ("7", ("record", valued, "")),
        ("8", ("record", record("shop", "e", ann)[..60].to_vec(), "")),
        ("a note", json(r#"{"userId":"bob-7f3a","note":"ann-5c81d7e2"}"#)),
        ("a note, cut", json(r#"{"userId":"bob-7f3a","note":"ann-5c81d7e2","#)),
        ("another id", json(r#"{"userId":"ann-5c81d7e2x"}"#)),
        // Its id is spelt as the project is.
        ("another project", ("record", record("neighbour", "shop", ann), "")),
        ("broken before its project", ("record", broken, "")),
        ("no record", ("record", b"shop\x0cann-5c81d7e2".to_vec(), "")),
    ] {
        let payload: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        let sql = format!(
            "INSERT INTO tallyhouse.dead_letters (project_id, id, kind, payload, received_at, failed_at) SETTINGS async_insert = 0 \
             VALUES ('{project}', '{id}', '{kind}', unhex('{payload}'), now64(3) - 5, now64(3))"
        );
        execute(writer, &sql).await.unwrap();
    }
}

/// The rows of the others, as they are when the person is left out.
async fn insert_without(writer: &Connection, all: &[&str], others: &[&str]) {
    insert(writer, "whole", all, 8_000, 12).await;
    let columns =
        "event_id, event_type, ts, value, user_id, anonymous_id, user_hash, country, dims, received_at, retention_days";
    let sql = format!(
        "INSERT INTO tallyhouse.events_in (project_id, {columns}) SELECT 'expected', {columns} FROM tallyhouse.events \
         WHERE project_id = 'shop' AND event_id != 'after' SETTINGS async_insert = 0"
    );
    execute(writer, &sql).await.unwrap();
    let rows = count(writer, "events", "project_id = 'expected'").await;
    assert_eq!(
        rows,
        count(
            writer,
            "events",
            &format!("project_id = 'whole' AND user_id IN {others:?}")
                .replace('"', "'")
                .replace('[', "(")
                .replace(']', ")")
        )
        .await
    );
    execute(writer, "ALTER TABLE tallyhouse.events DELETE WHERE project_id = 'whole' SETTINGS mutations_sync = 1")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_found_by_their_hash_alone() {
    let (writer, project) = (engine().await.writer(), new_project());
    let hasher = UserHasher::new(KEY);
    insert(&writer, &project, &["ann", "bob"], 60, 2).await;
    let client = writer.client();
    let ann = hasher.hash(&project, "ann", "");
    let cookie = hasher.hash(&project, "", "cookie-bob");
    let at = |hash, before| Hashed { hash, before };
    let found = async |suppressed: &[Hashed]| {
        erasure::leftovers(&client, &project, KEY, suppressed).await.unwrap().into_iter().collect::<BTreeSet<_>>()
    };
    let now = now_ms();
    assert_eq!(found(&[at(ann, now), at(cookie, now), at(7, now)]).await, BTreeSet::from([ann, cookie]));
    let many: Vec<_> = (1..20_000).map(|hash| at(u64::MAX - hash, now)).chain([at(ann, now)]).collect();
    assert_eq!(found(&many).await, BTreeSet::from([ann]), "more than one parameter holds");
    assert_eq!(found(&[at(ann, now - DAY_MS), at(cookie, now)]).await, BTreeSet::from([cookie]));
    assert_eq!(erasure::leftovers(&client, &project, [6; 16], &[at(ann, now)]).await.unwrap(), [0_u64; 0]);

    let job = format!("erasure-{project}");
    let target = Target { project: &project, job: &job, before: now };
    assert_eq!(erasure::name_by_hash(&client, target, KEY, &[ann, cookie]).await.unwrap(), 2);
    let rows: u64 = erasure::days(&client, target).await.unwrap().iter().map(|day| day.rows).sum();
    let expected = count(
        &writer,
        "events",
        &format!("project_id = '{project}' AND (user_id = 'ann' OR anonymous_id = 'cookie-bob')"),
    )
    .await;
    assert_eq!(rows, expected);
    erasure::forget(&client, &job).await.unwrap();
    assert_eq!(count(&writer, "privacy_subjects", &format!("job = '{job}'")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_removed_and_no_other() {
    let (writer, project) = (engine().await.writer(), new_project());
    let other = format!("{project}-2");
    for project in [&project, &other] {
        let (client, block) = (writer.client(), block_of(project, &["a", "b"]));
        insert_block(&client, "events_in", project, &block, Duration::from_secs(10)).await.unwrap();
        let question = format!("INSERT INTO tallyhouse.hot_questions VALUES ('{project}', '{{}}', 1, now64(3))");
        execute(&writer, &question).await.unwrap();
    }
    erasure::delete_project(&writer.client(), &project).await.unwrap();
    erasure::forget_project(&writer.client(), &project).await.unwrap();
    assert_eq!(count(&writer, "hot_questions", &format!("project_id = '{project}'")).await, 0);
    assert_eq!(count(&writer, "hot_questions", &format!("project_id = '{other}'")).await, 1);
    for table in ["events", "rollup_1m", "rollup_1h", "rollup_1d"] {
        assert_eq!(count(&writer, table, &format!("project_id = '{project}'")).await, 0, "{table}");
        assert!(count(&writer, table, &format!("project_id = '{other}'")).await > 0, "{table}");
    }
}
