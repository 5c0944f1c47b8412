//! Raw events move to warm and cold volumes by their age, and are erased and expire there as anywhere.

use std::time::Duration;

use tallyhouse::rollups;
use tallyhouse_sql::Connection;
use tallyhouse_sql::erasure::{self, DeletionProgress, Id, Target};
use tallyhouse_sql::migrations::{ALL, Rendering};
use tallyhouse_sql::rollups::rebuild::{self, Options};
use tallyhouse_sql::tiers::{self, Tiers};
use tallyhouse_sql::vitals;
use tallyhouse_testkit::{Folder, ask, engine_in, eventually, execute};

/// Four people's events of 1, 10 and 40 days ago.
async fn insert(writer: &Connection) {
    let sql = "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, user_id, user_hash, received_at, retention_days) \
               SELECT 'shop', concat('e', toString(number)), 'view', now64(3) - toIntervalDay([1, 10, 40][number % 3 + 1]), \
               concat('u', toString(intDiv(number, 3) % 4)), intDiv(number, 3) % 4 + 1, now64(3) - 5, 730 FROM numbers(120) SETTINGS async_insert = 0";
    execute(writer, sql).await.unwrap();
}

/// Age in days, disk and rows of each part of a project.
async fn parts(writer: &Connection, project: &str) -> String {
    let of_rows = format!(
        "SELECT _part AS part, count() AS n, toUInt32(round(dateDiff('second', toDateTime(max(ts)), now()) / 86400)) AS age \
         FROM tallyhouse.events WHERE project_id = '{project}' GROUP BY _part"
    );
    let sql = format!(
        "SELECT arrayStringConcat(groupArray(p), ', ') FROM (SELECT concat(toString(age), ' days: ', disk_name, ' ', toString(n)) AS p \
         FROM ({of_rows}) AS e INNER JOIN system.parts AS s ON s.name = e.part \
         WHERE s.database = 'tallyhouse' AND s.table = 'events' AND s.active ORDER BY age)"
    );
    ask(writer, &sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_move_by_age_and_are_erased_rebuilt_and_expire_where_they_are() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let (writer, client) = (engine.writer(), engine.writer().client());
    insert(&writer).await;
    assert_eq!(parts(&writer, "shop").await, "1 days: default 40, 10 days: default 40, 40 days: default 40");
    assert!(tiers::status(&writer).await.unwrap().starts_with("none"));

    // Of parts that were there before.
    tiers::apply(&writer, Tiers::default()).await.unwrap();
    let moved = "1 days: default 40, 10 days: warm 40, 40 days: cold 40";
    eventually("old events are on the warm and the cold disk", async || parts(&writer, "shop").await == moved).await;
    assert!(tiers::status(&writer).await.unwrap().starts_with("warm after 7, cold after 30 days"));
    let changes = "SELECT count() FROM system.mutations WHERE table = 'events'";
    let before = ask(&writer, changes).await.unwrap();
    tiers::apply(&writer, Tiers::default()).await.unwrap();
    assert_eq!(ask(&writer, changes).await.unwrap(), before, "what is so already is not set again");
    let told = vitals::read(&client).await.unwrap();
    let mut volumes: Vec<_> = told.iter().filter(|vital| vital.name == "disk_free").map(|vital| &*vital.of).collect();
    volumes.sort_unstable();
    assert_eq!(volumes.iter().filter(|volume| ["hot", "warm", "cold"].contains(volume)).count(), 3, "{volumes:?}");

    // A person.
    let target = Target { project: "shop", job: "erasure-1", before: tallyhouse_service::clock::now_ms() };
    erasure::name(&client, target.job, &[Id::User("u1".to_owned())]).await.unwrap();
    assert_eq!(erasure::delete_events(&client, target).await.unwrap(), DeletionProgress::Done);
    let left = "1 days: default 30, 10 days: warm 30, 40 days: cold 30";
    assert_eq!(ask(&writer, "SELECT uniqExact(user_id) FROM tallyhouse.events").await.unwrap(), "3");
    eventually("the others stayed where they were", async || parts(&writer, "shop").await == left).await;
    let selection = rollups::selection(None, Some(0), None, Some("1d"));
    let options =
        Options { selection, is_everything: false, gate: Duration::from_secs(10), pause: Duration::from_millis(20) };
    // It ends when nothing differs from raw events any more.
    rebuild::rebuild(&client, &options, async |_| {}).await.unwrap();
    let counted = "SELECT sum(events) FROM tallyhouse.rollup_1d WHERE project_id = 'shop' AND dim_set = ''";
    assert_eq!(ask(&writer, counted).await.unwrap(), "90");

    // History goes to the cold disk at once, and from there when its project's days are over: in some seconds.
    let history = "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, received_at, retention_days) \
                   SELECT 'short', toString(number), 'view', now64(3) - toIntervalDay(40) + toIntervalSecond(4), now64(3), 40 FROM numbers(7) \
                   SETTINGS async_insert = 0";
    execute(&writer, history).await.unwrap();
    assert_eq!(parts(&writer, "short").await, "40 days: cold 7");
    eventually("they have expired", async || {
        execute(&writer, "OPTIMIZE TABLE tallyhouse.events FINAL").await.unwrap();
        parts(&writer, "short").await.is_empty()
    })
    .await;
    assert_eq!(parts(&writer, "shop").await, left);

    stays_where_the_policy_has_no_place_for_it(&writer).await;
    engine.stop(Duration::from_secs(10)).await;
}

/// A table that was made before the policy, whose first volume has another name.
async fn stays_where_the_policy_has_no_place_for_it(writer: &Connection) {
    execute(writer, "DROP TABLE tallyhouse.events SYNC").await.unwrap();
    let made = ALL.iter().find(|migration| migration.name == "0103_events").unwrap().render(&Rendering::default());
    execute(writer, &made).await.unwrap();
    tiers::apply(writer, Tiers::default()).await.unwrap();
    assert_eq!(tiers::status(writer).await.unwrap(), "none (storage policy `default`)");
}
