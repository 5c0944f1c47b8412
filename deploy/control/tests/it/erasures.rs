//! A person is erased while events arrive, ClickHouse is killed, two ask at once and two runners work; nothing brings them back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tallyhouse_control::privacy::documents::Step;
use tallyhouse_control::privacy::erasure::{Erasure, ErasureError, Erasures, Person, Request};
use tallyhouse_control::privacy::feed;
use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::privacy::report;
use tallyhouse_control::privacy::runner::{Runner, Told};
use tallyhouse_control::{Control, ControlStore};
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::rollups::Selection;
use tallyhouse_sql::rollups::verify::verify;
use tallyhouse_sql::{AllShards, Connection};
use tallyhouse_testkit::ingest_service::Service;
use tallyhouse_testkit::{Folder, ask, engine_in, eventually, execute, files_with, remove_replaced_files_soon};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::support::{control, store};

const PROJECT: &str = "shop";
const ANN: &str = "ann-5c81d7e2-person";
const PAUSE: Duration = Duration::from_millis(50);

/// Events of Ann, days they lie on, and all events. `TALLYHOUSE_ERASURE_EVENTS` makes it as large as one likes (`make erasure`).
const OF_ANN: u64 = 10_000;
const DAYS: u64 = 40;

fn all_events() -> u64 {
    std::env::var_os("TALLYHOUSE_ERASURE_EVENTS").and_then(|text| text.to_str()?.parse().ok()).unwrap_or(100_000)
}

fn key() -> InstallationKey {
    InstallationKey::new([7; 16])
}

/// History as it was received: Ann's among others'.
async fn insert_history(writer: &Connection, project: &str, of_ann: u64, all: u64) {
    let hasher = key().hasher(None);
    let (ann, step) = (hasher.hash(project, ANN, ""), all / of_ann);
    let sql = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, value, user_id, anonymous_id, user_hash, country, dims, \
           received_at, retention_days) \
         SELECT '{project}', concat('h', toString(number)), ['view', 'purchase'][number % 2 + 1], \
           toDateTime64(toStartOfDay(now('UTC')), 3, 'UTC') - toIntervalDay(number % {DAYS}) - toIntervalSecond(number % 80000) AS ts, \
           number % 100, if(number % {step} = 0, '{ANN}', concat('u', toString(number % 1000))) AS user, \
           if(number % {step} = 0 AND number % 3 = 0, 'cookie-of-{ANN}', '') AS anonymous, \
           if(number % {step} = 0, {ann}, cityHash64(user) + 1), ['DE', 'FR', ''][number % 3 + 1] AS c, [('country', c)], ts, 730 \
         FROM numbers({all}) SETTINGS async_insert = 0, max_block_size = 200000, max_insert_threads = 1, max_partitions_per_insert_block = 0"
    );
    execute(writer, &sql).await.unwrap();
}

async fn number(writer: &Connection, sql: &str) -> u64 {
    ask(writer, sql).await.unwrap().parse().unwrap()
}

/// Another process that erases.
struct Eraser {
    control: Control,
    store: ControlStore,
    runner: Runner,
    running: JoinHandle<()>,
    stop: CancellationToken,
    changed: Arc<AtomicBool>,
}

impl Eraser {
    async fn start(connection: &Connection) -> Self {
        let (control, store, stop) = (control(connection, None), store(connection), CancellationToken::new());
        control.refresh().await.unwrap();
        tokio::spawn(control.clone().run(stop.clone()));
        let (shards, changed) = (AllShards::from(connection.client()), Arc::new(AtomicBool::new(false)));
        let heard = Arc::clone(&changed);
        let invalidate = Arc::new(move |_| {
            heard.store(true, Ordering::SeqCst);
            Box::pin(std::future::ready(Ok(()))) as Told
        });
        let runner = Runner { control: control.clone(), store: store.clone(), shards, key: key(), invalidate };
        let running = tokio::spawn(runner.clone().run(stop.clone()));
        Self { control, store, runner, running, stop, changed }
    }

    async fn request(&self, person: Person) -> Result<Erasure, ErasureError> {
        let key = key();
        let erasures = Erasures {
            store: &self.store,
            writer: self.runner.shards.home(),
            key: &key,
            key_part: None,
            project: PROJECT,
            by: "test",
            now_ms: now_ms(),
        };
        let erasure = erasures.request(&Request { person, keep_suppressed: false }).await;
        drop(self.control.refresh().await);
        erasure
    }

    async fn state(&self, id: &str) -> Option<Erasure> {
        let key = key();
        let (store, writer) = (&self.store, self.runner.shards.home());
        let erasures = Erasures { store, writer, key: &key, key_part: None, project: PROJECT, by: "", now_ms: 0 };
        erasures.find(id).await.ok().flatten()
    }

    /// Waits until an erasure is done.
    async fn done(&self, id: &str) -> Erasure {
        let waited = tokio::time::timeout(Duration::from_secs(300), async {
            loop {
                if let Some(erasure) = self.state(id).await.filter(|erasure| erasure.document.state == Step::Done) {
                    return erasure;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("it is not done"))
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

fn ann() -> Person {
    Person { user_id: Some(ANN.to_owned()), anonymous_id: None }
}

/// Sends an event of Ann and one of somebody else, again and again: when each was begun and answered, by its id.
fn traffic(service: &Service, stop: CancellationToken) -> JoinHandle<BTreeMap<String, (i64, i64)>> {
    let endpoint = service.endpoint();
    tokio::spawn(async move {
        let mut sent = BTreeMap::new();
        while !stop.is_cancelled() {
            let id = format!("live-{}", sent.len());
            let body = json!([
                {"eventId": id, "eventType": "view", "userId": ANN},
                {"eventId": format!("other-{}", sent.len()), "eventType": "view", "userId": "bob"}
            ]);
            let begun = now_ms();
            let reply = endpoint.post(body.to_string().into()).await.unwrap();
            assert_eq!(reply.status, 202);
            sent.insert(id, (begun, now_ms()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sent
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_erased_while_events_arrive_and_clickhouse_is_killed() {
    let (folder, data) = (Folder::create(), Folder::create());
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    for column in ["user_id", "anonymous_id"] {
        execute(&writer, &format!("ALTER TABLE tallyhouse.events MODIFY COLUMN {column} String CODEC(NONE)"))
            .await
            .unwrap();
    }
    remove_replaced_files_soon(&writer).await;
    let all = all_events();
    insert_history(&writer, PROJECT, OF_ANN, all).await;
    insert_history(&writer, "neighbour", 1_000, 10_000).await;
    let before =
        ask(&writer, "SELECT sum(cityHash64(*)) FROM tallyhouse.events WHERE project_id = 'neighbour'").await.unwrap();

    let (one, other) = (Eraser::start(&writer).await, Eraser::start(&writer).await);
    let service = Service::start(writer.clone(), &data, PROJECT).await;
    let stop = CancellationToken::new();
    tokio::spawn(feed::follow(one.control.clone(), key(), service.suppressions.clone(), stop.clone()));
    let sending = traffic(&service, stop.clone());
    tokio::time::sleep(Duration::from_millis(300)).await;

    // Two at once, of two processes.
    let (first, second) = tokio::join!(one.request(ann()), other.request(ann()));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.id, second.id);
    eventually("it is at work", async || {
        one.state(&first.id).await.is_some_and(|erasure| erasure.document.state >= Step::Deleting)
    })
    .await;
    let pid = Pid::from_raw(i32::try_from(engine.pid().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let done = one.done(&first.id).await;
    assert!(one.changed.load(Ordering::SeqCst) || other.changed.load(Ordering::SeqCst), "caches are told");
    stop.cancel();
    let sent = sending.await.unwrap();
    service.send_stored(json!([{"eventId": "last", "eventType": "view"}]).to_string()).await;

    // Every event of hers is before, and gone, or after, and counted once.
    let at = done.document.before_ms;
    assert_eq!(at, first.document.before_ms.max(second.document.before_ms), "what came before either is erased");
    let (gone, kept): (Vec<_>, Vec<_>) = sent.iter().partition(|(_, (_, answered))| *answered < at);
    assert!(!gone.is_empty() && kept.len() > 10, "{} before, {} after", gone.len(), kept.len());
    let stored = format!(
        "SELECT groupArray(event_id) FROM (SELECT event_id FROM tallyhouse.events \
         WHERE user_id = '{ANN}' AND project_id = '{PROJECT}' ORDER BY event_id)"
    );
    let rows: Vec<String> = serde_json::from_str(&ask(&writer, &stored).await.unwrap().replace('\'', "\"")).unwrap();
    for (id, (begun, answered)) in &sent {
        let count = rows.iter().filter(|row| *row == id).count();
        match (*begun >= at, *answered < at) {
            (true, _) => assert_eq!(count, 1, "{id} was sent afterwards"),
            (_, true) => assert_eq!(count, 0, "{id} was there before"),
            _ => assert!(count <= 1, "{id}"),
        }
    }
    assert!(rows.iter().all(|row| row.starts_with("live-")), "{rows:?}");
    let others =
        format!("SELECT count() FROM tallyhouse.events WHERE project_id = '{PROJECT}' AND event_id LIKE 'other-%'");
    assert_eq!(number(&writer, &others).await, sent.len() as u64);
    let history =
        format!("SELECT count() FROM tallyhouse.events WHERE project_id = '{PROJECT}' AND event_id LIKE 'h%'");
    assert_eq!(number(&writer, &history).await, all - OF_ANN);

    // Rollups are what raw says, for all tenants, and the neighbour is as before.
    for project in [PROJECT, "neighbour"] {
        let (from, to) = (now_ms() / 1_000 - 50 * 86_400, now_ms() / 1_000 + 86_400);
        let selection = Selection { from, to, days: None, ..Selection::of_days(project, Default::default()) };
        let report = verify(&writer.client(), &selection, PAUSE).await.unwrap();
        assert!(report.drifts.is_empty() && report.moving == 0, "{project}: {:?}", report.drifts);
    }
    let now =
        ask(&writer, "SELECT sum(cityHash64(*)) FROM tallyhouse.events WHERE project_id = 'neighbour'").await.unwrap();
    assert_eq!(now, before);
    let users = "SELECT uniqCombined64Merge(14)(users) FROM tallyhouse.rollup_1d WHERE project_id = 'shop' AND dim_set = '' AND event_type = 'purchase'";
    let expected = "SELECT uniqCombined64(14)(user_hash) FROM tallyhouse.events WHERE project_id = 'shop' AND event_type = 'purchase'";
    assert_eq!(number(&writer, users).await, number(&writer, expected).await);

    // The report is signed and counts what was there.
    let signed = done.document.report.clone().unwrap();
    assert_eq!(report::verify(&key(), &signed), Ok(()));
    let counted = signed["rawEvents"].as_u64().unwrap();
    assert!((OF_ANN + gone.len() as u64..=OF_ANN + sent.len() as u64).contains(&counted), "{signed}");
    assert_eq!(signed["filesLeft"], 0);
    assert!(!signed.to_string().contains(ANN));

    // No part of theirs is left on the disk; what came afterwards is hers, and goes for the search.
    assert!(!files_with(&folder.path().join("data"), b"u999").is_empty(), "the search finds what is there");
    let rest = "ALTER TABLE tallyhouse.events DELETE WHERE event_id LIKE 'live-%' OR project_id = 'neighbour' SETTINGS mutations_sync = 1";
    execute(&writer, rest).await.unwrap();
    let parts = folder.path().join("data");
    eventually("no file has the id", async || files_with(&parts, ANN.as_bytes()).is_empty()).await;

    brought_back(&writer, &one).await;
    service.stop().await;
    one.stop().await;
    other.stop().await;
    engine.stop(Duration::from_secs(10)).await;
}

/// A restored backup has her again: she is found by her hash and erased again.
async fn brought_back(writer: &Connection, eraser: &Eraser) {
    insert_history(writer, PROJECT, 10, 100).await;
    let hers = format!("SELECT count() FROM tallyhouse.events WHERE project_id = '{PROJECT}' AND user_id = '{ANN}'");
    assert_eq!(number(writer, &hers).await, 10);
    let again = eraser.runner.sweep().await.unwrap();
    let [(project, erasure)] = &again[..] else { panic!("{again:?}") };
    assert_eq!((project.as_str(), erasure.document.is_again), (PROJECT, true));
    eventually("she is gone again", async || {
        number(writer, &hers).await == 0
            && eraser.state(&erasure.id).await.is_some_and(|erasure| erasure.document.state >= Step::RemovingFiles)
    })
    .await;
    assert_eq!(eraser.runner.sweep().await.unwrap().len(), 0);
}
