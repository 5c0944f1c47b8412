//! What looks at the whole: the canary, and the comparison of rollups with raw events in the background.

use std::time::Duration;

use tallyhouse_control::kind::CANARY_PROJECT;
use tallyhouse_control::{Control, FixedKeys};
use tallyhouse_query_api::admission::Policy;
use tallyhouse_query_api::drift::{DriftSettings, DriftWatch};
use tallyhouse_query_api::store::Store;
use tallyhouse_query_api::telemetry::{DriftMetrics, Metrics};
use tallyhouse_service::metrics::Registry;
use tallyhouse_testkit::ingest_service::{Service as Ingester, count};
use tallyhouse_testkit::query_service::{Service, Settings};
use tallyhouse_testkit::{Folder, engine, eventually, execute, new_project};

/// That of the project, as the tests' ingester makes them.
const KEY: &str = CANARY_PROJECT;
const TURNS: &str = "tallyhouse_canary_turns_total";
const CANARIES: &str = "SELECT count() FROM events WHERE project_id = {project:String}";

async fn watching(ingester: &Ingester) -> Service {
    let url = ingester.url.trim_end_matches("/v1/events");
    let settings = Settings::of(engine().await.reader())
        .with("CANARY_KEY", KEY)
        .with("CANARY_INGEST_URL", url)
        .with("CANARY_EVERY_MS", "2000");
    Service::start_with(settings, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_goes_through_the_front_door_and_two_instances_send_no_more_than_one() {
    let (data, writer) = (Folder::create(), engine().await.writer());
    let ingester = Ingester::start(writer.clone(), &data, CANARY_PROJECT).await;
    let (one, other) = (watching(&ingester).await, watching(&ingester).await);
    let turns = |outcome: &str| one.counted(TURNS, outcome) + other.counted(TURNS, outcome);
    eventually("canaries are seen, and one instance leaves it to the other", async || {
        turns("seen") >= 2 && turns("left_to_another") >= 1
    })
    .await;
    let newest = one.gauge("tallyhouse_canary_newest_timestamp_seconds");
    assert!((one.now_ms() / 1_000 - newest) < 60, "{newest}");
    let sent = count(&writer, CANARY_PROJECT, CANARIES).await;
    assert!(sent <= turns("seen") + 2, "{sent} events for {} that were seen", turns("seen"));

    ingester.stop().await;
    eventually("that it is not taken is counted", async || turns("not_sent") >= 1).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_that_differs_is_told_until_it_is_mended() {
    let (project, writer) = (new_project(), engine().await.writer());
    let (registry, metrics) = (Registry::new(), Metrics::register(&Registry::new()).unwrap());
    let reader = engine().await.reader();
    let store = Store::new(reader.client(), Policy::for_total(4), metrics);
    let settings = DriftSettings { every: Duration::from_secs(600), pause: Duration::from_millis(50) };
    let (control, drifts) = (Control::fixed(FixedKeys::default()), DriftMetrics::register(&registry).unwrap());
    let mut watch = DriftWatch::new(store, reader.into(), control, settings, drifts);
    let shown = |name: &str, outcome: &str| {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let has = |metric: &&prometheus::proto::Metric| {
            outcome.is_empty() || metric.get_label().iter().any(|label| label.value() == outcome)
        };
        let metric = family.get_metric().iter().find(has).unwrap();
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    };
    let hour = jiff::Timestamp::now().as_second() / 3_600 * 3_600 - 7_200;
    // In raw, and in no rollup.
    let before = hour - 3_600;
    let insert = format!(
        "INSERT INTO tallyhouse.events (project_id, event_id, event_type, ts, original_ts, received_at, retention_days) \
         SELECT '{project}', toString(at), 'a', toDateTime64(at, 3), toDateTime64(at, 3), now64(3), 730 \
         FROM (SELECT arrayJoin([{before}, {hour}]) AS at)"
    );
    execute(&writer, &insert).await.unwrap();
    watch.look(project.clone(), hour).await;
    assert!(shown("tallyhouse_rollup_drifted_cells", "") >= 2.0);
    assert_eq!(shown("tallyhouse_rollup_checks_total", "drifted"), 1.0);
    watch.look(project.clone(), before).await;
    assert_eq!(shown("tallyhouse_rollup_checks_total", "drifted"), 2.0);
    watch.look(project.clone(), hour + 3_600).await;
    assert_eq!(shown("tallyhouse_rollup_checks_total", "clean"), 1.0, "the hour after it is as it should be");
    let delete =
        format!("ALTER TABLE tallyhouse.events DELETE WHERE project_id = '{project}' SETTINGS mutations_sync = 1");
    execute(&writer, &delete).await.unwrap();
    // Both, and whichever project of the last hours it is.
    watch.turn().await;
    assert!(shown("tallyhouse_rollup_checks_total", "clean") >= 3.0);
    assert_eq!(shown("tallyhouse_rollup_drifted_cells", ""), 0.0);
    for trouble in ["failed", "not_admitted"] {
        assert_eq!(shown("tallyhouse_rollup_checks_total", trouble), 0.0, "{trouble}");
    }
}
