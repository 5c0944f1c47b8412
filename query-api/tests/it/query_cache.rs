//! The guarantees of the cache: one query for a stampede, no tenant's data for another, no need of Redis, and no query that
//! nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tallyhouse_sql::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use tallyhouse_testkit::query_service::Service;
use tallyhouse_testkit::{self as support, Redis, a_day, eventually, insert_events, new_project, ten_days_ago};

/// Longer than an answer is given whose days' versions nobody knows.
const LONG: Duration = Duration::from_secs(71);

/// Longer than any answer is kept.
const DAY: Duration = Duration::from_secs(86_401);

#[tokio::test(flavor = "multi_thread")]
async fn a_stampede_costs_one_query_even_while_redis_dies() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 5).await;
    let mut redis = Redis::start().await;
    let service = Arc::new(Service::start(engine.reader(), &[&project], Some(&redis.url)).await);
    assert_eq!(service.get(&project, &a_day(from)).await.header("x-cache"), "MISS");
    service.pass(DAY);

    let (before, looked_up) = (service.queries(), service.look_ups());
    let readers: Vec<_> = (0..500)
        .map(|_| {
            let (service, project) = (Arc::clone(&service), project.clone());
            tokio::spawn(async move { service.get(&project, &a_day(from)).await })
        })
        .collect();
    redis.kill().await;
    let mut missed = 0;
    for reader in readers {
        let reply = reader.await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.values()), (200, vec![json!(15)]));
        missed += usize::from(reply.header("x-cache") == "MISS");
    }
    // And, for the newest event, one look at minutes and one at raw events.
    assert_eq!((missed, service.queries() - before, service.look_ups() - looked_up), (1, 1, 2));

    service.pass(DAY);
    assert_eq!(service.get(&project, &a_day(from)).await.values(), [json!(15)], "without Redis");
    assert!(service.counted("tallyhouse_query_redis_errors_total", "") > 0, "Redis was missed");
}

#[tokio::test]
async fn an_answer_ends_when_it_was_to_end_and_has_a_tag() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let service = Service::start(engine.reader(), &[&project], None).await;
    let first = service.get(&project, &a_day(from)).await;
    assert_eq!((first.header("x-cache"), first.header("age")), ("MISS", "0"));
    service.pass(Duration::from_secs(30));
    let second = service.get(&project, &a_day(from)).await;
    assert_eq!(second.header("x-cache"), "HIT");
    assert!(second.header("age").parse::<u32>().unwrap() >= 30);
    assert_eq!(second.header("etag"), first.header("etag"));

    let conditional = [("x-api-key", project.as_str()), ("if-none-match", first.header("etag"))];
    let unchanged = service.get_with(&a_day(from), &conditional).await;
    assert_eq!((unchanged.status.as_u16(), &unchanged.body), (304, &json!("")));
    // 30 and 41 seconds: reading before the last quarter, which begins after 37 s at the earliest, has not moved the end. From there it
    // is not given again.
    service.pass(Duration::from_secs(41));
    insert_events(&engine.writer(), &project, from, 1).await;
    let changed = service.get_with(&a_day(from), &conditional).await;
    assert_eq!((changed.status.as_u16(), changed.values()), (200, vec![json!(6)]));
    assert_eq!(changed.header("x-cache"), "MISS");
    assert_ne!(changed.header("etag"), first.header("etag"));
    assert_eq!(service.queries(), 2);
    service.stop().await;
}

#[tokio::test]
async fn instances_share_answers_and_tenants_do_not() {
    let (engine, from) = (support::engine().await, ten_days_ago());
    let (mine, theirs) = (new_project(), new_project());
    insert_events(&engine.writer(), &mine, from, 1).await;
    insert_events(&engine.writer(), &theirs, from, 2).await;
    let redis = Redis::start().await;
    let one = Service::start(engine.reader(), &[&mine, &theirs], Some(&redis.url)).await;
    assert_eq!(one.get(&mine, &a_day(from)).await.values(), [json!(3)]);
    eventually("Redis holds the answer", async || redis.keys("tallyhouse:answer:").await == 1).await;

    let other = Service::start(engine.reader(), &[&mine, &theirs], Some(&redis.url)).await;
    let shared = other.get(&mine, &a_day(from)).await;
    assert_eq!((shared.header("x-cache"), shared.values(), other.queries()), ("HIT", vec![json!(3)], 0));
    for service in [&one, &other] {
        assert_eq!(service.get(&theirs, &a_day(from)).await.values(), [json!(6)]);
        assert_eq!(service.get(&mine, &a_day(from)).await.values(), [json!(3)]);
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_damaged_answer_in_redis_is_a_miss_and_removed() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let redis = Redis::start().await;
    let one = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    one.get(&project, &a_day(from)).await;
    eventually("Redis holds the answer", async || redis.keys("tallyhouse:answer:").await == 1).await;
    let damage = "EVAL \"local k = redis.call('KEYS', 'tallyhouse:answer:*')[1]; redis.call('SET', k, 'THA1 nonsense'); return k\" 0";
    assert!(redis.command(damage).await.is_some());

    let other = Service::start(engine.reader(), &[&project], Some(&redis.url)).await;
    let reply = other.get(&project, &a_day(from)).await;
    assert_eq!((reply.header("x-cache"), reply.values()), ("MISS", vec![json!(3)]));
    assert_eq!(other.counted("tallyhouse_query_redis_errors_total", "corrupt"), 1);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_redis_that_hangs_is_soon_left_alone() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 1).await;
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", hung.local_addr().unwrap());
    let _held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = hung.accept().await {
            held.push(stream);
        }
    });
    let service = Service::start(engine.reader(), &[&project], Some(&url)).await;
    for _ in 0..5 {
        assert_eq!(service.get(&project, &a_day(from)).await.values(), [json!(3)]);
        service.pass(LONG);
    }
    let avoided = async || {
        service.get(&project, "/v1/dashboards/realtime").await;
        service.counted("tallyhouse_query_redis_errors_total", "avoided") > 0
    };
    eventually("Redis is left alone", avoided).await;
    service.stop().await;
}

#[tokio::test]
async fn a_redis_that_hangs_costs_an_answer_of_many_parts_one_wait() {
    let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
    insert_events(&engine.writer(), &project, from, 9 * 24).await;
    let redis = Redis::start().await;
    let known = new_project();
    let service = Service::start(engine.reader(), &[&project, &known], Some(&redis.url)).await;
    eventually("Redis is used", async || {
        service.get(&known, "/v1/dashboards/realtime").await;
        redis.keys("tallyhouse:answer:").await > 0
    })
    .await;
    redis.hang().await;
    let waits = || {
        let count = |kind| service.counted("tallyhouse_query_redis_errors_total", kind);
        count("timed_out") + count("failed")
    };
    let before = waits();
    // Nine days of hours are nine parts, each with versions of its own. Of this project nothing is known yet.
    let to = (from + 9 * 86_400) * 1_000;
    let path = format!("/v1/metrics/events?granularity=hour&startTime={}&endTime={to}", from * 1_000);
    assert_eq!(service.get(&project, &path).await.values().len(), 9 * 24);
    let waited = waits() - before;
    assert!(waited > 0, "Redis hangs");
    assert!(waited <= 2, "one wait of the answer, and maybe one of the look at Redis for the health page: {waited}");
    service.stop().await;
}

#[tokio::test]
async fn a_query_nobody_waits_for_is_stopped() {
    let (engine, project) = (support::engine().await, new_project());
    // Twelve weeks: as many partitions, so as many parts that never merge, each of which costs the slowed query a second.
    let days = 84;
    let from = ten_days_ago() - 75 * 86_400;
    insert_events(&engine.writer(), &project, from, days * 24).await;
    let slow = slowed(engine.reader(), &project).await;
    let service = Arc::new(Service::start(slow, &[&project], None).await);
    let client = engine.writer().client();
    let running = async || {
        const COUNT: &str = "SELECT count() FROM system.processes
            WHERE Settings['log_comment'] = {mark:String} AND query LIKE 'SELECT % AS at%'";
        client.query(COUNT).param("mark", &project).fetch_one::<u64>().await.unwrap()
    };
    let (asking, key) = (Arc::clone(&service), project.clone());
    let to = from + days as i64 * 86_400;
    let times = format!("startTime={}&endTime={}", from * 1_000, to * 1_000);
    let path = format!("/v1/metrics/users?granularity=day&timezone=Asia/Kolkata&{times}");
    let reader = tokio::spawn(async move { asking.get(&key, &path).await });
    eventually("the query runs", async || running().await == 1).await;
    reader.abort();
    // Mostly by KILL; ClickHouse may see that the connection was closed before that comes.
    let ended =
        || ["stopped", "not_found"].map(|how| service.counted("tallyhouse_query_kills_total", how)).iter().sum::<u64>();
    eventually("it was stopped", async || ended() == 1).await;
    assert_eq!(running().await, 0);
    assert_eq!(service.counted("tallyhouse_query_clickhouse_queries_total", "cancelled"), 1);
}

#[tokio::test]
async fn questions_about_the_same_events_are_one_query_even_at_once() {
    let held = Held::start().await;
    let (first, second) = held.two().await;
    held.let_go();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (30.0, 3.0));
    assert_eq!(held.ask("value_avg").await.unwrap(), 15.0, "remembered");
    assert_eq!(held.asked(), 1);
    // The reading, and both look-ups of the newest event.
    assert_eq!(held.service.counted("tallyhouse_query_cache_parts_total", "in_flight"), 3);
}

#[tokio::test]
async fn who_waits_for_what_another_question_reads_is_not_stranded_when_that_one_goes_away() {
    let held = Held::start().await;
    let (first, second) = held.two().await;
    first.abort();
    eventually("the other one asks ClickHouse", async || held.asked() == 2).await;
    held.let_go();
    assert_eq!(second.await.unwrap(), 3.0);
}

/// A service that gets ClickHouse's answers when they are let go, and the events of an hour.
struct Held {
    service: Arc<Service>,
    project: String,
    from: i64,
    answers: watch::Sender<bool>,
    asked: Arc<AtomicU64>,
}

impl Held {
    async fn start() -> Self {
        let (engine, project, from) = (support::engine().await, new_project(), ten_days_ago());
        insert_events(&engine.writer(), &project, from, 1).await;
        let (asked, (answers, are_let_go)) = (Arc::new(AtomicU64::new(0)), watch::channel(true));
        let way = Way { settings: String::new(), asked: Arc::clone(&asked), answers: are_let_go };
        let service = Arc::new(Service::start(proxied(engine.reader(), way).await, &[&project], None).await);
        answers.send_replace(false);
        Self { service, project, from, answers, asked }
    }

    /// The value of a day.
    fn ask(&self, metric: &str) -> JoinHandle<f64> {
        let path = a_day(self.from).replace("/events?", &format!("/{metric}?"));
        let (service, key) = (Arc::clone(&self.service), self.project.clone());
        tokio::spawn(async move { service.get(&key, &path).await.values()[0].as_f64().unwrap() })
    }

    /// A question that ClickHouse has, and another that waits for what it reads.
    async fn two(&self) -> (JoinHandle<f64>, JoinHandle<f64>) {
        let first = self.ask("value_sum");
        eventually("it asks ClickHouse", async || self.asked() == 1).await;
        let second = self.ask("events");
        eventually("another question waits", async || self.looks() == 2).await;
        (first, second)
    }

    /// Questions to the daily rollup that ClickHouse was sent.
    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Parts that were looked for in memory.
    fn looks(&self) -> u64 {
        self.service.counted("tallyhouse_query_cache_parts_total", "memory")
    }

    fn let_go(&self) {
        self.answers.send_replace(true);
    }
}

/// The same ClickHouse through a proxy that makes every query slow, by settings of ClickHouse's own, and marks it.
async fn slowed(connection: Connection, mark: &str) -> Connection {
    const SLOWLY: &str =
        "max_threads=1&max_block_size=1&max_execution_speed=1&timeout_before_checking_execution_speed=0";
    let (answers, are_let_go) = watch::channel(true);
    // Nobody will hold them back.
    drop(answers);
    let settings = format!("log_comment={mark}&{SLOWLY}&");
    proxied(connection, Way { settings, asked: Arc::default(), answers: are_let_go }).await
}

/// What a proxy does.
#[derive(Clone)]
struct Way {
    /// Put before the parameters of each request.
    settings: String,
    /// Raised by each question to the daily rollup.
    asked: Arc<AtomicU64>,
    /// Whether answers are let through.
    answers: watch::Receiver<bool>,
}

/// The same ClickHouse through a proxy.
async fn proxied(connection: Connection, way: Way) -> Connection {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = connection.url.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(relay(client, server, way.clone()));
        }
    });
    Connection { url, ..connection }
}

/// Copies both ways until either side closes. A request is sent in one piece, so its first bytes are those of a piece.
async fn relay(mut client: TcpStream, mut server: TcpStream, mut way: Way) {
    const START: &[u8] = b"POST /?";
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(1..) => {
                    let piece = &up[..read.unwrap()];
                    let is_question = piece.windows(14).any(|bytes| bytes == b"FROM rollup_1d");
                    way.asked.fetch_add(u64::from(is_question), Ordering::SeqCst);
                    match piece.strip_prefix(START) {
                        Some(rest) => server.write_all(&[START, way.settings.as_bytes(), rest].concat()).await.unwrap(),
                        None => server.write_all(piece).await.unwrap(),
                    }
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(1..) => {
                    if way.answers.wait_for(|are_let_go| *are_let_go).await.is_err()
                        || client.write_all(&down[..read.unwrap()]).await.is_err()
                    {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
