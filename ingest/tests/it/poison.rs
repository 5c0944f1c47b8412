//! Events that ClickHouse refuses for good: they are dead letters, and everything else is stored once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tallyhouse_ingest::batch::Builder;
use tallyhouse_ingest::journal::{Journal, JournalFile};
use tallyhouse_schema::{Event, Rollup};
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::Connection;
use tallyhouse_sql::rollups::Selection;
use tallyhouse_sql::rollups::verify::{PAUSE, verify};

use tallyhouse_testkit::ingest_service::{BOOT, Service, count, everywhere, is_inserting, journaled, json};
use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::{Folder, ask, engine_in, eventually, execute, kafka_or_skip, new_project, programs};

/// Dead letters of a project, of one place.
const DEAD_LETTERS: &str = "SELECT count() FROM dead_letters FINAL WHERE project_id = {project:String} \
    AND code = 'refused_by_store' AND state = 'open'";

/// A ClickHouse of one's own, whose tables refuse what a test wants.
pub struct Place {
    engine: tallyhouse::engine::Engine,
    pub connection: Connection,
    pub proxy: Proxy,
    data: Folder,
    folder: Folder,
    pub project: String,
}

/// Refuses events of the type `poison`.
pub enum Refuses {
    /// A view that throws.
    View,
    /// A constraint of a table.
    Constraint(&'static str),
}

impl Refuses {
    pub async fn install(&self, connection: &Connection) {
        let sql = match self {
            Self::View => "CREATE MATERIALIZED VIEW tallyhouse.`a-view` ENGINE = Null AS \
                SELECT throwIf(CAST(event_type, 'String') = 'poison') AS x FROM tallyhouse.events_in"
                .to_owned(),
            Self::Constraint(table) => {
                format!("ALTER TABLE tallyhouse.{table} ADD CONSTRAINT no_poison CHECK event_type != 'poison'")
            }
        };
        execute(connection, &sql).await.unwrap();
    }

    pub async fn remove(&self, connection: &Connection) {
        let sql = match self {
            Self::View => "DROP VIEW tallyhouse.`a-view` SYNC".to_owned(),
            Self::Constraint(table) => format!("ALTER TABLE tallyhouse.{table} DROP CONSTRAINT no_poison"),
        };
        execute(connection, &sql).await.unwrap();
    }
}

impl Place {
    pub async fn new() -> Self {
        let folder = Folder::create();
        let engine = engine_in(&folder).await;
        let connection = engine.writer();
        let proxy = Proxy::start(connection.clone()).await;
        Self { engine, connection, proxy, data: Folder::create(), folder, project: new_project() }
    }

    pub async fn service(&self, settings: &[(&str, &str)]) -> Service {
        Service::start_with(self.proxy.connection.clone(), &self.data, &self.project, settings).await
    }

    pub async fn dead_letters(&self) -> u64 {
        count(&self.connection, &self.project, DEAD_LETTERS).await
    }

    /// Everything but `refused` events is stored once, in raw and in every rollup, and the others are dead letters.
    pub async fn exact(&self, stored: u64, refused: u64) {
        let found = async || (everywhere(&self.connection, &self.project).await, self.dead_letters().await);
        let what = format!("{stored} are stored and {refused} are dead letters");
        let open = "SELECT count() FROM repairs FINAL WHERE state != 'done' AND project_id = {project:String}";
        let repaired = async {
            while found().await != ([stored; 4], refused) || count(&self.connection, &self.project, open).await > 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(240), repaired).await.is_err() {
            panic!("{what}: found {:?}", found().await);
        }
        eventually("nothing is being inserted", async || self.is_committed()).await;
        self.verified().await;
        let doubled = "SELECT count() FROM (SELECT id FROM dead_letters WHERE project_id = {project:String} \
            AND state = 'open' GROUP BY id HAVING count() > 1)";
        assert_eq!(count(&self.connection, &self.project, doubled).await, 0, "a dead letter was written twice");
    }

    /// Whether no batch of the local log is being inserted; through Kafka there is none.
    pub fn is_committed(&self) -> bool {
        !self.data.path().join("ingest").join("log").exists() || !is_inserting(&self.data)
    }

    async fn verified(&self) {
        let now = now_ms() / 1_000;
        let selection = Selection {
            project: Some(self.project.clone()),
            from: now - 86_400,
            to: now + 86_400,
            tables: Rollup::OF_EACH_TABLE.to_vec(),
            days: None,
        };
        let report = verify(&self.connection.client(), &selection, PAUSE).await.unwrap();
        assert!(report.drifts.is_empty(), "{:?}", report.drifts);
        for table in ["events", "rollup_1m", "rollup_1h", "rollup_1d"] {
            execute(&self.connection, &format!("OPTIMIZE TABLE tallyhouse.{table} FINAL")).await.unwrap();
        }
    }

    /// As [`Self::exact`], and stops both.
    pub async fn finish(self, service: Service, stored: u64, refused: u64) {
        self.exact(stored, refused).await;
        service.stop().await;
        self.stop().await;
    }

    /// ClickHouse ends and comes back without its tokens, as after a power cut: it syncs parts, and not the files of tokens.
    async fn forget_tokens(mut self) -> Self {
        self.engine.stop(Duration::from_secs(20)).await;
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            if folder.ends_with("deduplication_logs") {
                std::fs::remove_dir_all(&folder).unwrap();
            } else {
                let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
                folders.extend(entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()));
            }
        }
        self.engine = engine_in(&self.folder).await;
        self.connection = self.engine.writer();
        self.proxy = Proxy::start(self.connection.clone()).await;
        self
    }

    pub async fn stop(self) {
        self.engine.stop(Duration::from_secs(20)).await;
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Events with new ids; those at `poisoned` are refused.
pub fn mixed(count: usize, poisoned: &[usize]) -> String {
    let event = |at| {
        let kind = if poisoned.contains(&at) { "poison" } else { "a" };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        json!({"eventId": format!("e{id}"), "eventType": kind, "userId": format!("u{id}"), "value": 1.5,
               "properties": {"plan": "pro"}, "context": {"country": "DE"}})
    };
    Value::from_iter((0..count).map(event)).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_in_the_middle_hurts_no_other() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send(mixed(10, &[])).await.status, 202);
    let ways = [Refuses::View, Refuses::Constraint("events"), Refuses::Constraint("rollup_1h")];
    let (mut stored, mut refused) = (10, 0);
    for way in ways {
        way.install(&place.connection).await;
        // Several, because which of the tables an attempt reaches is by chance.
        for _ in 0..2 {
            assert_eq!(service.send(mixed(50, &[17, 49])).await.status, 202);
            (stored, refused) = (stored + 48, refused + 2);
        }
        let dead_letters = async || place.dead_letters().await == refused;
        eventually("the refused ones are dead letters", dead_letters).await;
        eventually("nothing is being inserted", async || place.is_committed()).await;
        way.remove(&place.connection).await;
    }
    place.exact(stored, refused).await;
    assert_eq!(service.counted("tallyhouse_ingest_events_total", "dead_lettered"), refused);
    assert_eq!(service.counted("tallyhouse_ingest_events_total", "stored"), stored);
    let reason = "SELECT count() FROM dead_letters FINAL WHERE project_id = {project:String} AND reason LIKE '%code 469%no_poison%' \
         AND reason NOT LIKE '%Stack%' AND reason NOT LIKE '%Column values%' AND payload LIKE '%\"plan\":\"pro\"%'";
    assert_eq!(count(&place.connection, &place.project, reason).await, 8);
    let copies = "SELECT count() FROM system.tables WHERE name LIKE 'rehearsal%'";
    assert_eq!(ask(&place.connection, copies).await.unwrap(), "0");
    service.stop().await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_which_event_is_refused_and_may_send_it_again() {
    let place = Place::new().await;
    Refuses::Constraint("events").install(&place.connection).await;
    let service = place.service(&[("INGEST_ACK_TIMEOUT_MS", "20000")]).await;
    let wait = async |body: String| service.endpoint().post_with("wait=stored", body.into()).await.unwrap();
    let body = mixed(20, &[7]);
    let id = serde_json::from_str::<Value>(&body).unwrap()[7]["eventId"].clone();
    let reply = wait(body.clone()).await;
    let answer = json(&reply);
    assert_eq!((reply.status.as_u16(), &answer["accepted"]), (200, &json!(19)), "{answer}");
    let refused = &answer["rejected"][0];
    assert_eq!(
        (&refused["index"], &refused["eventId"], &refused["code"]),
        (&json!(7), &id, &json!("refused_by_store")),
        "{answer}"
    );
    // A batch of one event: nobody waits for it for ever.
    let single = serde_json::from_str::<Value>(&mixed(1, &[0])).unwrap()[0].to_string();
    let reply = wait(single).await;
    assert_eq!((reply.status.as_u16(), &json(&reply)["code"]), (400, &json!("refused_by_store")));
    // Neither for one whose id was made here.
    let without_id = json!({"eventType": "poison", "timestamp": now_ms()});
    let reply = wait(without_id.to_string()).await;
    assert_eq!((reply.status.as_u16(), &json(&reply)["code"]), (400, &json!("refused_by_store")));
    place.exact(19, 3).await;
    // It is refused again, not called a duplicate.
    let again = json(&wait(body.clone()).await);
    assert_eq!(
        (&again["duplicates"], &again["rejected"][0]["code"]),
        (&json!(19), &json!("refused_by_store")),
        "{again}"
    );
    Refuses::Constraint("events").remove(&place.connection).await;
    let mended = json(&wait(body).await);
    assert_eq!((&mended["accepted"], &mended["duplicates"]), (&json!(1), &json!(19)), "{mended}");
    // Of the dead letters of one event the newest is open.
    place.finish(service, 20, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_disk_and_after_kills_the_same_events_are_dead_letters() {
    let place = Place::new().await;
    let mut service = place.service(&[]).await;
    assert_eq!(service.send(mixed(10, &[])).await.status, 202);
    eventually("the first are stored", async || everywhere(&place.connection, &place.project).await == [10; 4]).await;
    Refuses::Constraint("rollup_1h").install(&place.connection).await;
    place.proxy.set(Mode::Away);
    for _ in 0..3 {
        assert_eq!(service.send(mixed(40, &[11, 12])).await.status, 202);
    }
    service.kill(&place.data).await;
    place.proxy.set(Mode::Pass);
    // Killed as soon as it has begun to write dead letters, and again when there are more.
    for dead_letters in [1, 3, 5] {
        service = Service::start_unready(place.proxy.connection.clone(), &place.data, &place.project, &[]).await;
        eventually("dead letters are written", async || place.dead_letters().await >= dead_letters).await;
        service.kill(&place.data).await;
    }
    service = place.service(&[]).await;
    place.finish(service, 10 + 3 * 38, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_final_even_when_the_cause_is_gone_at_the_restart() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    Refuses::Constraint("events").install(&place.connection).await;
    assert_eq!(service.send(mixed(30, &[4])).await.status, 202);
    // Its dead letter is written, its answer is not seen: nothing else of the batch can follow.
    eventually("the dead letter is written", async || {
        let has_dead_letter = place.dead_letters().await == 1;
        if has_dead_letter {
            place.proxy.set(Mode::Away);
        }
        has_dead_letter
    })
    .await;
    service.kill(&place.data).await;
    Refuses::Constraint("events").remove(&place.connection).await;
    place.proxy.set(Mode::Pass);
    let service = place.service(&[]).await;
    place.finish(service, 29, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_everything_makes_no_dead_letters_and_is_reported() {
    let place = Place::new().await;
    let service = place.service(&[("REFUSED_GRACE_MS", "1000")]).await;
    assert_eq!(service.send(mixed(10, &[])).await.status, 202);
    let broken = "CREATE MATERIALIZED VIEW tallyhouse.broken ENGINE = Null AS \
        SELECT throwIf(length(CAST(event_type, 'String')) > 0) AS x FROM tallyhouse.events_in";
    execute(&place.connection, broken).await.unwrap();
    for _ in 0..2 {
        assert_eq!(service.send(mixed(10, &[])).await.status, 202, "the disk takes them");
    }
    eventually("it is not ready", async || !service.health.is_ready()).await;
    let detail = service.health.report().components["store"].detail.clone();
    assert!(detail.contains("refuses every event") && detail.contains("code 395"), "{detail}");
    assert_eq!(service.metric("tallyhouse_ingest_store_refuses_everything"), 1);
    execute(&place.connection, "DROP VIEW tallyhouse.broken SYNC").await.unwrap();
    eventually("it is ready again", async || service.health.is_ready()).await;
    place.finish(service, 30, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_of_nothing_but_poison_holds_up_nobody_for_ever() {
    let place = Place::new().await;
    let service = place.service(&[("REFUSED_GRACE_MS", "1000")]).await;
    Refuses::View.install(&place.connection).await;
    let all: Vec<usize> = (0..20).collect();
    assert_eq!(service.send(mixed(20, &all)).await.status, 202);
    assert_eq!(service.send(mixed(25, &[])).await.status, 202);
    place.finish(service, 25, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_no_sketch_holds_in_a_file_of_an_older_version_are_dead_letters() {
    let place = Place::new().await;
    let journal = place.data.path().join("ingest").join("journal");
    std::fs::create_dir_all(place.data.path().join("ingest")).unwrap();
    let values = [1.0, f64::MAX, 1e-300, 1e300, f64::NAN, 2.0];
    let chunks = valued_block(&place.project, &values);
    let content = JournalFile { token: "old-1".to_owned(), rows: values.len(), chunks, days: vec![] };
    Journal::open(&journal).unwrap().write("0000000000000001-0000000000000001-X", &content).unwrap();
    let service = place.service(&[]).await;
    assert_eq!(service.send(mixed(5, &[])).await.status, 202);
    let found = async || everywhere(&place.connection, &place.project).await;
    eventually("the others are stored", async || found().await[0] >= 7 && journaled(&place.data, "batch").is_empty())
        .await;
    let (stored, dead_letters) = (found().await[0], place.dead_letters().await);
    assert_eq!(stored + dead_letters, 11, "each event has one fate");
    assert!(dead_letters >= 1, "f64::MAX is refused");
    place.finish(service, stored, dead_letters).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_there_is_poison_about_nothing_of_it_is_written_anywhere() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    Refuses::Constraint("rollup_1h").install(&place.connection).await;
    assert_eq!(service.send(mixed(40, &[3])).await.status, 202);
    place.exact(39, 1).await;
    let repairs = async || count(&place.connection, &place.project, REPAIRS).await;
    let before = repairs().await;
    for _ in 0..3 {
        assert_eq!(service.send(mixed(40, &[3, 30])).await.status, 202);
        assert_eq!(service.send(mixed(10, &[])).await.status, 202);
    }
    place.exact(39 + 3 * 48, 1 + 3 * 2).await;
    assert_eq!(repairs().await, before, "a rehearsed batch needs no repair");
    service.stop().await;
    place.stop().await;
}

/// Days of batches that were compared.
const REPAIRS: &str = "SELECT count() FROM repairs FINAL WHERE project_id = {project:String}";

#[tokio::test(flavor = "multi_thread")]
async fn what_clickhouse_lost_with_the_power_is_stored_again_from_the_log() {
    let place = Place::new().await;
    for events in [10, 20, 30] {
        // The process is killed, and the machine goes on.
        let service = place.service(&[(BOOT, "one")]).await;
        assert_eq!(service.send_stored(mixed(10, &[])).await.status, 200);
        assert_eq!(everywhere(&place.connection, &place.project).await, [events; 4]);
        service.kill(&place.data).await;
    }
    // The power goes: no part of two tables was on the disk, all of the others were, and no token.
    for table in ["events", "rollup_1h"] {
        execute(&place.connection, &format!("TRUNCATE TABLE tallyhouse.{table}")).await.unwrap();
    }
    let place = place.forget_tokens().await;
    let service = place.service(&[(BOOT, "two")]).await;
    assert_eq!(service.send_stored(mixed(10, &[])).await.status, 200);
    place.exact(40, 0).await;
    service.stop().await;
    // An orderly stop leaves nothing to be stored again.
    let service = place.service(&[(BOOT, "three")]).await;
    assert_eq!(service.send_stored(mixed(10, &[])).await.status, 200);
    assert_eq!(service.metric("tallyhouse_ingest_inserted_rows_total"), 10);
    place.finish(service, 50, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_token_went_with_the_power_is_counted_once_all_the_same() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    assert_eq!(service.send_stored(mixed(10, &[])).await.status, 200);
    place.proxy.set(Mode::HoldAnswers);
    assert_eq!(json(&service.send(mixed(20, &[])).await)["accepted"], 20);
    eventually("the insert was applied", async || everywhere(&place.connection, &place.project).await == [30; 4]).await;
    service.kill(&place.data).await;
    let place = place.forget_tokens().await;
    // Rollups count the batch twice for a moment only; its rows stay twice in raw until they are merged.
    let merges =
        |what, value| format!("ALTER TABLE tallyhouse.events {what} max_bytes_to_merge_at_max_space_in_pool{value}");
    execute(&place.connection, &merges("MODIFY SETTING", " = 1")).await.unwrap();
    let service = place.service(&[]).await;
    let in_raw = async || everywhere(&place.connection, &place.project).await[0];
    eventually("the batch was stored twice", async || in_raw().await == 50).await;
    execute(&place.connection, &merges("RESET SETTING", "")).await.unwrap();
    execute(&place.connection, "OPTIMIZE TABLE tallyhouse.events FINAL").await.unwrap();
    place.finish(service, 30, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_sent_again_and_refused_again_has_one_open_dead_letter() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    Refuses::View.install(&place.connection).await;
    let body = mixed(20, &[5, 6]);
    for times in 1..=3_u64 {
        assert_eq!(service.send(body.clone()).await.status, 202);
        let all = "SELECT uniqExact(id) FROM dead_letters WHERE project_id = {project:String}";
        eventually("it has one dead letter more", async || {
            count(&place.connection, &place.project, all).await == 2 * times
        })
        .await;
        place.exact(18, 2).await;
    }
    service.stop().await;
    place.stop().await;
}

/// What `tallyhouse dlq` prints about this place.
async fn dlq(place: &Place, arguments: &[&str]) -> String {
    let url = place.engine.http_url();
    let mut command = tokio::process::Command::new(programs::tallyhouse());
    let env = [("CLICKHOUSE_URL", url), ("CLICKHOUSE_USER", "writer"), ("CLICKHOUSE_PASSWORD", "dev")];
    let output = command.arg("dlq").args(arguments).envs(env).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_and_replayed_once_the_cause_is_gone() {
    let place = Place::new().await;
    let service = place.service(&[]).await;
    Refuses::Constraint("rollup_1d").install(&place.connection).await;
    assert_eq!(service.send(mixed(30, &[4, 9])).await.status, 202);
    place.exact(28, 2).await;
    let of_project = ["--project", &place.project];
    let listed = dlq(&place, &[&["list", "--json", "--code", "refused_by_store"], &of_project[..]].concat()).await;
    let dead_letters: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(dead_letters.len(), 2, "{listed}");
    let shown = dlq(&place, &["show", dead_letters[0]["id"].as_str().unwrap()]).await;
    assert!(shown.contains("no_poison") && shown.contains("pro"), "{shown}");
    Refuses::Constraint("rollup_1d").remove(&place.connection).await;
    let key = format!("import-{}", place.project);
    let replay = [&["replay", "--url", &service.url, "--key", &key], &of_project[..]].concat();
    let replayed = dlq(&place, &replay).await;
    assert!(replayed.contains("2 replayed, 0 still open"), "{replayed}");
    place.finish(service, 30, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_batch_of_nothing_but_poison_holds_up_others_for_a_bounded_time() {
    let place = Place::new().await;
    let settings = [("REFUSED_GRACE_MS", "1000"), ("INGEST_BATCH_ROWS", "20000")];
    let service = place.service(&settings).await;
    Refuses::View.install(&place.connection).await;
    let all: Vec<usize> = (0..1_000).collect();
    let began = std::time::Instant::now();
    for _ in 0..4 {
        assert_eq!(service.send(mixed(1_000, &all)).await.status, 202);
    }
    assert_eq!(service.send(mixed(25, &[])).await.status, 202);
    place.exact(25, 4_000).await;
    let trials = service.metric("tallyhouse_ingest_refused_trials_total");
    assert!(trials < 1_000, "{trials} trials for 4,000 events");
    eprintln!("4,000 refused events: {:.1?}, {trials} trials", began.elapsed());
    service.stop().await;
    place.stop().await;
}

/// Events with these values as a block, which no sender can make any more.
pub fn valued_block(project: &str, values: &[f64]) -> Vec<bytes::Bytes> {
    let now = now_ms();
    let mut builder = Builder::default();
    for (at, value) in values.iter().enumerate() {
        let event = Event {
            event_id: format!("old-{at}").into(),
            event_type: "a".into(),
            ts: now,
            original_ts: now,
            received_at: now,
            value: Some(*value),
            user_id: "u".into(),
            user_hash: 1,
            country: "DE".into(),
            retention_days: 730,
            ..Event::default()
        };
        builder.push(project, &event);
    }
    builder.finish().chunks
}

/// Services that share a topic and a group of their own.
struct Log {
    bootstrap: String,
    name: String,
}

impl Log {
    async fn new(test: &str) -> Option<Self> {
        Some(Self { bootstrap: kafka_or_skip(test).await?, name: format!("topic-{}", ulid::Ulid::generate()) })
    }

    async fn service(&self, role: &str, connection: Connection, data: &Folder, project: &str) -> Service {
        let settings = [
            ("KAFKA_BROKERS", self.bootstrap.as_str()),
            ("KAFKA_TOPIC", &self.name),
            ("KAFKA_GROUP", &self.name),
            ("KAFKA_PARTITIONS", "2"),
            ("KAFKA_TIMEOUT_MS", "5000"),
            ("INGEST_ACK_TIMEOUT_MS", "30000"),
            ("INGEST_ROLE", role),
        ];
        Service::start_with(connection, data, project, &settings).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_of_kafka_stops_no_partition_also_when_its_consumer_dies() {
    let Some(log) = Log::new("a_poison_record_of_kafka_stops_no_partition_also_when_its_consumer_dies").await else {
        return;
    };
    let place = Place::new().await;
    let gateway = log.service("gateway", place.connection.clone(), &place.data, &place.project).await;
    let consumer_data = Folder::create();
    let consumer =
        async || log.service("consumer", place.proxy.connection.clone(), &consumer_data, &place.project).await;
    let mut running = consumer().await;
    assert_eq!(gateway.send(mixed(20, &[])).await.status, 202);
    eventually("the first are stored", async || everywhere(&place.connection, &place.project).await == [20; 4]).await;
    Refuses::Constraint("rollup_1m").install(&place.connection).await;
    let body = mixed(100, &[30, 31, 77]);
    assert_eq!(gateway.send(body.clone()).await.status, 202);
    // Killed as soon as one has its dead letter; its heir has the same intent.
    for dead_letters in [1, 3] {
        eventually("dead letters are written", async || place.dead_letters().await >= dead_letters).await;
        running.kill(&consumer_data).await;
        running = consumer().await;
    }
    assert_eq!(gateway.send(mixed(50, &[0])).await.status, 202);
    place.exact(20 + 97 + 49, 4).await;
    let origins = "SELECT count() FROM dead_letters FINAL WHERE project_id = {project:String} AND source_offset >= 0 \
        AND startsWith(source_topic, 'topic-')";
    assert_eq!(count(&place.connection, &place.project, origins).await, 4);
    // After a fix the same records' events may come again.
    Refuses::Constraint("rollup_1m").remove(&place.connection).await;
    assert_eq!(gateway.send(body).await.status, 202);
    place.exact(20 + 100 + 49, 4).await;
    running.stop().await;
    gateway.stop().await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_refused_sent_again_and_stored_is_known_after_restarts() {
    let place = Place::new().await;
    let refuses = Refuses::Constraint("events");
    refuses.install(&place.connection).await;
    let (service, body) = (place.service(&[]).await, mixed(4, &[2]));
    let poison: Value = serde_json::from_str::<Value>(&body).unwrap()[2].clone();
    service.send(body).await;
    place.exact(3, 1).await;
    // Its second record is in the same segment as the first.
    refuses.remove(&place.connection).await;
    let again = service.send_stored(json!([poison]).to_string()).await;
    assert_eq!(json(&again)["accepted"], 1, "what was refused is not known: {}", again.excerpt());
    service.stop().await;
    for _ in 0..2 {
        let service = place.service(&[]).await;
        let repeated = service.send_stored(json!([poison]).to_string()).await;
        assert_eq!(json(&repeated)["duplicates"], 1, "what is stored is: {}", repeated.excerpt());
        service.stop().await;
    }
    assert_eq!(everywhere(&place.connection, &place.project).await, [4; 4]);
    place.stop().await;
}
