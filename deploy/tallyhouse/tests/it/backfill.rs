//! Dimensions that are declared after events were stored: reported, and counted by a backfill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tallyhouse::backfill::{Backfill, Backfilled, Uncounted, uncounted};
use tallyhouse::rollups;
use tallyhouse_schema::Catalogue;
use tallyhouse_sql::Connection;
use tallyhouse_sql::rollups::verify::verify;
use tallyhouse_sql::rollups::{RollupsError, gate};

use tallyhouse_testkit::query_service::Service;
use tallyhouse_testkit::{Folder, ask, engine_in, eventually, execute, new_project, shared};

const PAUSE: Duration = Duration::from_millis(20);

/// What is declared by now.
fn declared() -> Catalogue {
    let flights =
        r#"{"eventType":"flight_departed","dimensions":["origin","carrier"],"combinations":[["origin","carrier"]]}"#;
    Catalogue::from_documents([flights]).unwrap()
}

/// Events of `flight_departed` as they are stored by an ingester that knows no set of it but the default ones: `count` of them on
/// the hours of a day, so many days ago.
async fn store(writer: &Connection, project: &str, days_ago: i64, count: u64) {
    let sql = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, value, user_hash, country, device, props, num_props, \
         dims, received_at, retention_days) \
         SELECT '{project}', concat('{days_ago}-', toString(number)), 'flight_departed', \
         toDateTime64(toStartOfDay(now('UTC')) - toIntervalDay({days_ago}), 3, 'UTC') + toIntervalSecond(number * 37 % 86400), \
         number % 5, 1 + number % 50, ['DE', 'FR'][number % 2 + 1] AS c, 'mobile', \
         if(number % 3 = 0, map('origin', concat('JF\\tK', toString(number % 2))), map('origin', 'LGA', 'carrier', repeat('x', 130))), \
         if(number % 3 = 0, map('carrier', 7.0), map()), \
         [('country', c), ('device', 'mobile'), ('country,device', concat(c, char(31), 'mobile'))], now64(3), 700 \
         FROM numbers({count}) SETTINGS max_partitions_per_insert_block = 0"
    );
    execute(writer, &sql).await.unwrap();
}

async fn lacking(writer: &Connection, project: &str) -> Vec<Uncounted> {
    let selection = rollups::selection(Some(project.to_owned()), Some(0), None, None);
    uncounted(&writer.client(), &declared().into(), &selection).await.unwrap()
}

async fn backfill(writer: &Connection, project: &str, most: u32) -> Result<Backfilled, RollupsError> {
    let (client, catalogues) = (writer.client(), declared().into());
    let backfill = Backfill {
        client: &client,
        catalogues: &catalogues,
        most_values: &|_| most,
        selection: rollups::selection(Some(project.to_owned()), Some(0), None, None),
        set: None,
        // Several for a day.
        batch: 250,
        gate: Duration::from_secs(30),
        pause: PAUSE,
    };
    backfill.run(async |_| ()).await
}

async fn drifts(writer: &Connection, project: &str) -> usize {
    let selection = rollups::selection(Some(project.to_owned()), Some(0), None, None);
    verify(&writer.client(), &selection, PAUSE).await.unwrap().drifts.len()
}

/// What a set's rows say in a table.
async fn counted(writer: &Connection, project: &str, table: &str, set: &str) -> String {
    let sql = format!(
        "SELECT groupArray((v, n, u)) FROM (SELECT dim_value AS v, sum(events) AS n, \
         uniqCombined64Merge({})(users) AS u FROM tallyhouse.{table} \
         WHERE project_id = '{project}' AND dim_set = '{set}' AND event_type != '' GROUP BY v ORDER BY v)",
        if table == "rollup_1m" { 12 } else { 14 }
    );
    ask(writer, &sql).await.unwrap()
}

#[tokio::test]
async fn a_dimension_of_later_is_said_seen_and_counted_for_the_past() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let (writer, project) = (engine.writer(), new_project());
    store(&writer, &project, 3, 600).await;
    store(&writer, &project, 120, 60).await;
    let found = lacking(&writer, &project).await;
    let told: Vec<_> = found.iter().map(|one| (one.dim_set.as_str(), one.events)).collect();
    assert_eq!(told, [("carrier", 660), ("carrier,origin", 660), ("origin", 660)]);
    assert_eq!(drifts(&writer, &project).await, 0, "rollups are as raw says");

    let service = Service::start(engine.reader(), &[&project], None).await;
    let start = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(24 * 200)).unwrap();
    let day = start.to_string()[..10].to_owned();
    let url = format!("/v1/metrics/events?eventType=flight_departed&groupBy=origin&granularity=month&startTime={day}");
    let reply = service.get(&project, &url).await;
    let warning = &reply.body["meta"]["warnings"][0];
    assert_eq!(
        (&warning["code"], &warning["missing_events"]),
        (&json!("not_rolled_up_then"), &json!(660)),
        "{reply:?}"
    );
    assert_eq!(warning["gaps"].as_array().unwrap().len(), 1, "nothing but gaps, which is one: {reply:?}");
    let recent = "/v1/metrics/events?eventType=flight_departed&groupBy=origin&granularity=hour";
    assert_eq!(service.get(&project, recent).await.body["meta"]["warnings"], Value::Null, "that range misses nothing");

    let done = backfill(&writer, &project, 1_000).await.unwrap();
    assert_eq!(done.events, 660);
    assert_eq!((lacking(&writer, &project).await, drifts(&writer, &project).await), (Vec::new(), 0));
    let long = "x".repeat(128);
    for table in ["rollup_1h", "rollup_1d"] {
        assert_eq!(
            counted(&writer, &project, table, "origin").await,
            "[('JFK0',110,25),('JFK1',110,25),('LGA',440,50)]",
            "{table}"
        );
        assert_eq!(
            counted(&writer, &project, table, "carrier").await,
            format!("[('7',220,50),('{long}',440,50)]"),
            "{table}"
        );
    }
    assert_eq!(counted(&writer, &project, "rollup_1m", "carrier").await, format!("[('7',200,50),('{long}',400,50)]"));
    let all = "SELECT count(), sum(length(dims)) FROM tallyhouse.events";
    assert_eq!(ask(&writer, all).await.unwrap(), "(660,3960)", "one row of each is left");
    eventually("the warning is gone", async || service.get(&project, &url).await.body["meta"]["warnings"].is_null())
        .await;
    // Again: there is nothing to do.
    assert_eq!(backfill(&writer, &project, 1_000).await.unwrap(), Backfilled::default());
    service.stop().await;
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_backfill_that_is_killed_goes_on_and_events_arrive_meanwhile() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let (writer, project) = (engine.writer(), new_project());
    for days_ago in 1..4 {
        store(&writer, &project, days_ago, 2_000).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let arriving = tokio::spawn({
        let (writer, project, stop) = (writer.clone(), project.clone(), Arc::clone(&stop));
        async move {
            let mut events = 0;
            while !stop.load(Ordering::Relaxed) {
                let sql = format!(
                    "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, user_hash, dims, received_at, retention_days) \
                     SELECT '{project}', 'live-{events}', 'flight_departed', now64(3) - toIntervalDay(1 + {events} % 3), 1, \
                     [('country', ''), ('device', ''), ('country,device', char(31)), ('origin', 'LIVE'), ('carrier', ''), \
                     ('carrier,origin', concat(char(31), 'LIVE'))], now64(3), 700"
                );
                // Behind the gate it is refused, and comes again.
                if execute(&writer, &sql).await.is_ok() {
                    events += 1;
                }
            }
            events
        }
    });
    // Dropped at a moment that is as good as any: whatever statement runs then is carried out or not.
    for millis in [300, 1_700] {
        drop(tokio::time::timeout(Duration::from_millis(millis), backfill(&writer, &project, 1_000)).await);
    }
    let left = async || backfill(&writer, &project, 1_000).await;
    let mut done = left().await;
    while matches!(done, Err(RollupsError::Busy)) {
        done = left().await;
    }
    done.unwrap();
    stop.store(true, Ordering::Relaxed);
    let live = arriving.await.unwrap();
    assert_eq!((lacking(&writer, &project).await, drifts(&writer, &project).await), (Vec::new(), 0));
    let total = format!(
        "SELECT sum(events) FROM tallyhouse.rollup_1h WHERE project_id = '{project}' AND event_type != '' AND dim_set = "
    );
    for set in ["", "origin", "carrier", "carrier,origin", ":origin"] {
        assert_eq!(ask(&writer, &format!("{total}'{set}'")).await.unwrap(), (6_000 + live).to_string(), "{set}");
    }
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_backfill_runs_alone_lets_inserts_in_and_refuses_a_cluster() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let (writer, project) = (engine.writer(), new_project());
    let client = writer.client();
    store(&writer, &project, 3, 60).await;
    let lock = gate::Lock::take(&client).await.unwrap();
    assert!(matches!(backfill(&writer, &project, 1_000).await, Err(RollupsError::Busy)));
    drop(lock);

    // As a rebuild leaves it that is killed behind its gate.
    gate::close(&client).await.unwrap();
    assert_eq!(backfill(&writer, &project, 1_000).await.unwrap().events, 60);
    store(&writer, &project, 4, 60).await;

    execute(&writer, "CREATE TABLE tallyhouse.shards (x UInt8) ENGINE = MergeTree ORDER BY x").await.unwrap();
    let refused = backfill(&writer, &project, 1_000).await;
    assert!(matches!(refused, Err(RollupsError::Cluster)), "{refused:?}");
    assert_eq!(lacking(&writer, &project).await[0].events, 60, "no row was completed");
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn the_bound_on_distinct_values_holds_for_the_past_too() {
    let writer = shared().await.engine.writer();
    let project = new_project();
    let sql = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, props, dims, received_at, retention_days) \
         SELECT '{project}', toString(number), 'flight_departed', toDateTime64(toStartOfHour(now('UTC')) - toIntervalDay(2), 3, 'UTC'), \
         map('origin', concat('O', toString(number % 20))), [('country', ''), ('device', ''), ('country,device', char(31))], \
         now64(3), 700 FROM numbers(100)"
    );
    execute(&writer, &sql).await.unwrap();
    // Another event of the hour, of later, has used a place.
    let live = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, dims, received_at, retention_days) \
         SELECT '{project}', 'live', 'flight_departed', toDateTime64(toStartOfHour(now('UTC')) - toIntervalDay(2), 3, 'UTC'), \
         [('country', ''), ('device', ''), ('country,device', char(31)), ('origin', 'LIVE'), ('carrier', ''), \
          ('carrier,origin', concat(char(31), 'LIVE'))], now64(3), 700"
    );
    execute(&writer, &live).await.unwrap();
    loop {
        match backfill(&writer, &project, 5).await {
            Err(RollupsError::Busy) => {}
            done => break assert_eq!(done.unwrap().events, 100),
        }
    }
    let values = format!(
        "SELECT uniqExact(dim_value), sum(events), sumIf(events, dim_value = '__other__') FROM tallyhouse.rollup_1d \
         WHERE project_id = '{project}' AND event_type != '' AND dim_set = 'origin'"
    );
    // Five places: one is taken, four of twenty stay, and the other sixteen are one.
    assert_eq!(ask(&writer, &values).await.unwrap(), "(6,101,80)");
}
