//! What waits for refused events is bounded, and what cannot be done about them holds up nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tallyhouse_ingest::changed_days::Publisher;
use tallyhouse_ingest::poison::repair::{self, Step};
use tallyhouse_ingest::poison::search::Cause;
use tallyhouse_ingest::poison::{Alone, BatchWriter, Fence, Origin, refused_rows};
use tallyhouse_ingest::store::{Block, Store};
use tallyhouse_ingest::telemetry::Metrics;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::day_versions::DayVersions;
use tallyhouse_service::health::{Health, Status};
use tallyhouse_service::metrics::Registry;
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::native::Rows;
use tallyhouse_sql::rehearsal::Rehearsal;
use tallyhouse_sql::rollups::gate::{self, Lock};

use crate::poison::{Place, Refuses, mixed, valued_block};
use tallyhouse_testkit::ingest_service::{Service, count, everywhere, json};
use tallyhouse_testkit::proxy::Mode;
use tallyhouse_testkit::{ask, eventually, execute};

/// The write path's end, without an ingester around it.
fn store_of(place: &Place) -> Store {
    let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
    Store {
        client: place.connection.client(),
        shard: 1,
        everything: place.connection.client(),
        timeout: Duration::from_secs(20),
        metrics: Arc::clone(&metrics),
        health: Health::default(),
        changed_days: Publisher::new(DayVersions::default(), false, metrics),
        tracer: None,
    }
}

const RAW: &str = "SELECT count() FROM events WHERE project_id = {project:String}";

/// A batch of three that another process has stored as a whole, after it had made a dead letter of the second. How many rows of it
/// are refused now.
async fn take_over(place: &Place, store: &Store, token: &str) -> usize {
    let chunks = valued_block(&place.project, &[1.0, 2.0, 3.0]);
    let block = Block { token, rows: 3, chunks: &chunks, days: &[] };
    store.attempt(block).await.unwrap();
    let writer = BatchWriter::new(store.clone(), Duration::ZERO);
    let cause = Cause { code: 469, reason: "refused".to_owned() };
    let dead_letter = refused_rows::dead_letter(token, "", &Rows::read(&chunks).unwrap(), 1, &cause);
    let Ok(()) = writer.write_dead_letters(&format!("{token}-refused"), vec![dead_letter], &Alone).await;
    let origin = Origin { topic: "", begun: Some(0), erased: &[] };
    let Ok(refused) = writer.store(block, origin, &Alone).await;
    refused.len()
}

/// Every row was refused, and the whole batch a pile of dead letters, when a rebuild held inserts back for a moment just then.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_in_the_middle_of_a_search_blames_no_event() {
    let place = Place::new().await;
    let client = place.connection.client();
    let mut rehearsal = Rehearsal::begin(&client).await.unwrap();
    gate::close(&client).await.unwrap();
    let narrowed = rehearsal.narrow(0).await.unwrap();
    let chunks = valued_block(&place.project, &[1.0]);
    for entry in [rehearsal.everything(), narrowed] {
        rehearsal.send(&entry, &chunks, Duration::from_secs(20)).await.unwrap();
    }
    rehearsal.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_that_cannot_be_deleted_is_counted_and_holds_up_nothing() {
    let place = Place::new().await;
    let store = store_of(&place);
    assert_eq!(take_over(&place, &store, "first").await, 1);
    assert_eq!((count(&place.connection, &place.project, RAW).await, store.metrics.refusals.leftovers.get()), (2, 0));
    // ClickHouse deletes no row of a table with a projection.
    let projection = "ADD PROJECTION kinds (SELECT event_type, count() GROUP BY event_type)";
    for change in ["MODIFY SETTING deduplicate_merge_projection_mode = 'drop'", projection] {
        execute(&place.connection, &format!("ALTER TABLE tallyhouse.events {change}")).await.unwrap();
    }
    assert_eq!(take_over(&place, &store, "second").await, 1);
    assert_eq!((count(&place.connection, &place.project, RAW).await, store.metrics.refusals.leftovers.get()), (5, 1));
    place.stop().await;
}

/// Neither as a whole, nor where an attempt has come before: then what it left is for the erasure, and its days are compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_begun_batch_is_repeated_without_people_who_were_erased() {
    let place = Place::new().await;
    let store = store_of(&place);
    let writer = BatchWriter::new(store.clone(), Duration::ZERO);
    let stored = async || count(&place.connection, &place.project, RAW).await;
    let repairs = "SELECT count() FROM repairs WHERE project_id = {project:String} AND state = 'open'";
    let chunks = valued_block(&place.project, &[1.0, 2.0, 3.0]);
    let block = Block { token: "begun", rows: 3, chunks: &chunks, days: &[] };
    let origin = Origin { topic: "", begun: Some(now_ms()), erased: &[0, 2] };
    let Ok(refused) = writer.store(block, origin, &Alone).await;
    let open = count(&place.connection, &place.project, repairs).await;
    assert_eq!((stored().await, refused.len(), open), (1, 0, 1));
    // The whole batch under its token, as it was begun, adds nothing.
    store.attempt(block).await.unwrap();
    assert_eq!(stored().await, 1);
    let all = Block { token: "all", ..block };
    let Ok(refused) = writer.store(all, Origin { erased: &[0, 1, 2], ..origin }, &Alone).await;
    assert_eq!((stored().await, refused.len()), (1, 0));
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_does_not_end_holds_up_nothing() {
    let place = Place::new().await;
    let store = Store { client: place.proxy.connection.client(), ..store_of(&place) };
    place.proxy.set(Mode::Swallow("DELETE FROM events"));
    let taken = tokio::time::timeout(Duration::from_secs(90), take_over(&place, &store, "first")).await;
    assert_eq!((taken, store.metrics.refusals.leftovers.get()), (Ok(1), 1));
    place.stop().await;
}

/// Sends events of which so many are refused, until these are new: a batch leaves the disk before its refused ids are forgotten.
async fn send_refused(service: &Service, body: &str, refused: u64) {
    let accepted = async || json(&service.send(body.to_owned()).await)["accepted"].as_u64().unwrap();
    eventually("refused events are not taken for duplicates", async || accepted().await >= refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_dead_letters_that_cannot_be_discarded_hold_up_nothing() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    Refuses::Constraint("events").install(&place.connection).await;
    let open_only = "ALTER TABLE tallyhouse.dead_letters ADD CONSTRAINT open_only CHECK state != 'discarded'";
    execute(&place.connection, open_only).await.unwrap();
    let body = mixed(20, &[5]);
    for _ in 0..2 {
        send_refused(&service, &body, 1).await;
        eventually("nothing is being inserted", async || place.is_committed()).await;
    }
    place.finish(service, 19, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_dead_letters_of_the_longest_ids_are_discarded() {
    let place = Place::new().await;
    let service = place.service(&[("REFUSED_GRACE_MS", "0")]).await;
    Refuses::View.install(&place.connection).await;
    let all: Vec<usize> = (0..400).collect();
    let mut events: Vec<Value> = serde_json::from_str(&mixed(400, &all)).unwrap();
    for (at, event) in events.iter_mut().enumerate() {
        event["eventId"] = format!("{at:0>4}{}", "\u{1d11e}".repeat(90)).into();
    }
    let body = Value::from(events).to_string();
    for times in 1..=2_u64 {
        send_refused(&service, &body, 400).await;
        let all = "SELECT uniqExact(id) FROM dead_letters WHERE project_id = {project:String}";
        eventually("each has one dead letter more", async || {
            count(&place.connection, &place.project, all).await == 400 * times && place.is_committed()
        })
        .await;
        assert_eq!(place.dead_letters().await, 400);
    }
    service.stop().await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_blamed_when_the_store_takes_some_other_kind_of_row() {
    // A row without fields is refused, and so is a row of a type that nobody sends.
    for constraint in ["country != ''", "event_type IN ('a', 'poison') AND country != ''"] {
        let place = Place::new().await;
        let service = place.service(&[]).await;
        assert_eq!(service.send(mixed(10, &[])).await.status, 202);
        eventually("the first are stored", async || everywhere(&place.connection, &place.project).await == [10; 4])
            .await;
        Refuses::Constraint("events").install(&place.connection).await;
        let picky = format!("ALTER TABLE tallyhouse.events ADD CONSTRAINT picky CHECK {constraint}");
        execute(&place.connection, &picky).await.unwrap();
        assert_eq!(service.send(mixed(1, &[0])).await.status, 202);
        place.finish(service, 10, 1).await;
    }
}

/// Loses the partition as soon as the health tells of trouble.
struct LostInTrouble(Health);

struct Lost;

impl Fence for LostInTrouble {
    type Lost = Lost;

    async fn hold(&self) -> Result<(), Lost> {
        match self.0.report().components.get("store") {
            Some(component) if component.status != Status::Up => Err(Lost),
            _ => Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_a_batch_that_is_given_up_leaves_the_health() {
    let place = Place::new().await;
    let store = store_of(&place);
    let broken = "CREATE MATERIALIZED VIEW tallyhouse.broken ENGINE = Null AS \
        SELECT throwIf(length(CAST(event_type, 'String')) > 0) AS x FROM tallyhouse.events_in";
    execute(&place.connection, broken).await.unwrap();
    let chunks = valued_block(&place.project, &[1.0, 2.0, 3.0]);
    let block = Block { token: "given-up", rows: 3, chunks: &chunks, days: &[] };
    let origin = Origin { topic: "", begun: None, erased: &[] };
    let writer = BatchWriter::new(store.clone(), Duration::from_secs(30));
    let stored = writer.store(block, origin, &LostInTrouble(store.health.clone())).await;
    assert!(stored.is_err(), "it is given up");
    let component = store.health.report().components["store"].clone();
    assert_eq!((component.status, store.metrics.refusals.store_refuses.get()), (Status::Up, 0), "{}", component.detail);
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_cannot_be_repaired_holds_up_no_other() {
    let place = Place::new().await;
    let store = store_of(&place);
    // In this order they are repaired.
    let projects = [format!("a-{}", place.project), format!("b-{}", place.project)];
    let today = i32::try_from(now_ms() / 86_400_000).unwrap();
    let days: BTreeSet<_> =
        projects.iter().flat_map(|project| [(project.clone(), today - 1), (project.clone(), today)]).collect();
    for project in &projects {
        let chunks = valued_block(project, &[1.0, 2.0, 3.0]);
        store.attempt(Block { token: project, rows: 3, chunks: &chunks, days: &[] }).await.unwrap();
    }
    execute(&place.connection, "DELETE FROM tallyhouse.events WHERE event_id = 'old-1'").await.unwrap();
    let unmendable =
        format!("ALTER TABLE tallyhouse.rollup_1h ADD CONSTRAINT unmendable CHECK project_id != '{}'", projects[0]);
    execute(&place.connection, &unmendable).await.unwrap();
    insert_block(&store.client, repair::TABLE, "open", &repair::block("open", &days, Step::Open), store.timeout)
        .await
        .unwrap();
    let is_repaired = async |project: &str| {
        let open = "SELECT count() FROM repairs FINAL WHERE project_id = {project:String} AND state != 'done'";
        count(&place.connection, project, open).await == 0 && everywhere(&place.connection, project).await == [2; 4]
    };
    let repairing = tokio::spawn(repair::run(store.clone()));
    eventually("the second project is repaired", async || is_repaired(&projects[1]).await).await;
    let open = "SELECT count() FROM repairs FINAL WHERE project_id = {project:String} AND state != 'done'";
    let is_one_left = async || count(&place.connection, &projects[0], open).await == 1;
    eventually("of the first, the day before is repaired", is_one_left).await;
    eventually("the failure is counted", async || store.metrics.refusals.repair_failures.get() > 0).await;
    assert!(!is_repaired(&projects[0]).await, "it cannot be");
    repairing.abort();
    execute(&place.connection, "ALTER TABLE tallyhouse.rollup_1h DROP CONSTRAINT unmendable").await.unwrap();
    let repairing = tokio::spawn(repair::run(store.clone()));
    eventually("the first one is, too", async || is_repaired(&projects[0]).await).await;
    repairing.abort();
    let copies = "SELECT count() FROM system.tables WHERE name LIKE 'rehearsal%'";
    assert_eq!(ask(&place.connection, copies).await.unwrap(), "0");
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_another_process_rebuilds_a_repair_begins_nothing() {
    let place = Place::new().await;
    let store = store_of(&place);
    let days = BTreeSet::from([(place.project.clone(), 20_000)]);
    let open = repair::block("open", &days, Step::Open);
    insert_block(&store.client, repair::TABLE, "open", &open, store.timeout).await.unwrap();
    let lock = Lock::take(&store.client).await.unwrap();
    let repairing = tokio::spawn(repair::run(store.clone()));
    // QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: the lock is a query.
    let refused = "SELECT sum(value) > 0 FROM system.errors WHERE code = 216";
    eventually("it asks for the lock", async || ask(&place.connection, refused).await.unwrap() == "1").await;
    let in_state = async |state: &str| {
        let sql = format!("SELECT count() FROM repairs WHERE project_id = {{project:String}} AND state = '{state}'");
        count(&place.connection, &place.project, &sql).await
    };
    assert_eq!(in_state("running").await, 0);
    drop(lock);
    eventually("it is repaired", async || in_state("done").await == 1).await;
    repairing.abort();
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_tables_refuse_of_one_batch_is_found() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    for (table, kind) in [("events", "b"), ("rollup_1h", "c"), ("rollup_1d", "poison")] {
        let refuse = format!("ALTER TABLE tallyhouse.{table} ADD CONSTRAINT no_{kind} CHECK event_type != '{kind}'");
        execute(&place.connection, &refuse).await.unwrap();
    }
    let mut events: Vec<Value> = serde_json::from_str(&mixed(100, &[50, 60])).unwrap();
    for (at, kind) in [(7, "b"), (8, "c"), (30, "b"), (99, "c")] {
        events[at]["eventType"] = kind.into();
    }
    assert_eq!(service.send(Value::from(events).to_string()).await.status, 202);
    place.finish(service, 94, 6).await;
}
