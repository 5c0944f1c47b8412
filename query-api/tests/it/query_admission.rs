//! Admission against a real ClickHouse: no query runs that nobody waits for, and a ClickHouse that fails is left alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tallyhouse_query_api::admission::Policy;
use tallyhouse_query_api::sql::Statement;
use tallyhouse_query_api::store::{AdmissionRequest, Class, Cost, ReadError, Store};
use tallyhouse_query_api::telemetry::Metrics;
use tallyhouse_service::breaker::BreakerState;
use tallyhouse_service::metrics::Registry;
use tallyhouse_sql::Connection;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use tallyhouse_testkit::proxy::{Mode, Proxy};
use tallyhouse_testkit::{self as support, eventually, new_project};

/// The promise: a query that nobody waits for is gone within a second.
const GONE: Duration = Duration::from_secs(1);

/// Steps that take ClickHouse some seconds, within one block.
const DEAF_STEPS: u32 = 400_000;

/// A store of its own, its metrics, and a way to look at ClickHouse.
struct Desk {
    store: Store,
    registry: Registry,
    engine: Connection,
}

impl Desk {
    fn new(reader: &Connection, engine: Connection, policy: Policy) -> Arc<Self> {
        let registry = Registry::new();
        let store = Store::new(reader.client(), policy, Metrics::register(&registry).unwrap());
        Arc::new(Self { store, registry, engine })
    }

    /// Asks for something that takes minutes and says so in its text, in a task.
    fn ask_for_long(self: &Arc<Self>, class: Class, mark: &str) -> JoinHandle<Result<Vec<u64>, ReadError>> {
        let text =
            format!("SELECT sum(length(hex(sipHash128(toString(number))))) /* {mark} */ FROM numbers(400000000)");
        self.ask_for(class, mark, text)
    }

    fn ask_for(self: &Arc<Self>, class: Class, mark: &str, text: String) -> JoinHandle<Result<Vec<u64>, ReadError>> {
        let (desk, ask) = (Arc::clone(self), ask(class, mark));
        tokio::spawn(async move { desk.store.rows(&Statement { text, params: Vec::new() }, &ask).await })
    }

    /// Queries that ClickHouse runs and whose text has the mark.
    async fn running(&self, mark: &str) -> u64 {
        // The counting query is among the processes, with its parameter filled in.
        const COUNT: &str = "SELECT count() FROM system.processes
            WHERE position(query, {mark:String}) > 0 AND query NOT LIKE '%system.processes%'";
        self.engine.client().query(COUNT).param("mark", mark).fetch_one().await.unwrap()
    }

    async fn runs(&self, mark: &str, number: u64) {
        eventually("the queries run", async || self.running(mark).await == number).await;
    }

    async fn is_gone(&self, mark: &str) {
        let gone = async { while self.running(mark).await > 0 {} };
        tokio::time::timeout(GONE, gone).await.expect("the query is gone within a second");
    }

    /// The sum of a metric's series that have all these label values.
    fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let families = self.registry.gather();
        let series = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let has = |series: &&prometheus::proto::Metric| {
            labels.iter().all(|label| series.get_label().iter().any(|pair| pair.value() == *label))
        };
        series.filter(has).map(|series| series.get_counter().get_value() + series.get_gauge().get_value()).sum()
    }

    async fn dealt_with(&self, kills: f64) {
        eventually("every query was dealt with", async || self.metric("tallyhouse_query_kills_total", &[]) == kills)
            .await;
    }
}

fn ask(class: Class, project: &str) -> AdmissionRequest {
    AdmissionRequest { class, project: project.to_owned(), deadline: None }
}

fn statement(text: &str) -> Statement {
    Statement { text: text.to_owned(), params: Vec::new() }
}

/// A way to ClickHouse that keeps its connections open when those of the client close, as some load balancers do.
pub async fn clinging(connection: Connection) -> Connection {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = connection.url.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from_server, mut to_server) = TcpStream::connect(&target).await.unwrap().into_split();
            let (mut from_client, mut to_client) = client.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                drop(tokio::io::copy(&mut from_client, &mut to_server).await);
                // Dropping its half would close the connection.
                std::future::pending::<()>().await;
            });
        }
    });
    Connection { url, ..connection }
}

#[tokio::test]
async fn every_class_is_answered_with_what_it_cost() {
    let engine = support::engine().await;
    let desk = Desk::new(&engine.reader(), engine.writer(), Policy::for_total(8));
    for class in Class::ALL {
        let statement = statement("SELECT number FROM numbers(1000) ORDER BY number DESC LIMIT 2");
        let answered = desk.store.read::<u64>(&statement, &ask(class, "p")).await.unwrap();
        assert_eq!(answered.rows, [999, 998]);
        let Cost { rows_read, bytes_read, elapsed_ms, is_partial } = answered.cost;
        assert!(!is_partial);
        assert_eq!((rows_read, bytes_read), (1_000, 8_000), "{class:?}");
        assert!(elapsed_ms > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_nobody_waits_for_is_gone_although_clickhouse_does_not_see_its_client_go() {
    let (engine, mark) = (support::engine().await, new_project());
    let desk = Desk::new(&clinging(engine.reader()).await, engine.writer(), Policy::for_total(1));
    for round in 1..=3 {
        let asking = desk.ask_for_long(Class::AdHoc, &mark);
        desk.runs(&mark, 1).await;
        asking.abort();
        desk.is_gone(&mark).await;
        desk.dealt_with(f64::from(round)).await;
    }
    assert_eq!(desk.metric("tallyhouse_query_clickhouse_queries_total", &["cancelled"]), 3.0);
    assert_eq!(desk.metric("tallyhouse_query_kills_total", &["stopped"]), 3.0);
    assert_eq!(desk.store.breaker(), BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_out_of_time_is_gone() {
    let (engine, mark) = (support::engine().await, new_project());
    let mut policy = Policy::for_total(8);
    // ClickHouse is told two seconds, so it is our clock that ends it.
    policy.dashboard.deadline = Duration::from_millis(1_200);
    let desk = Desk::new(&engine.reader(), engine.writer(), policy);
    let asking = desk.ask_for_long(Class::Dashboard, &mark);
    desk.runs(&mark, 1).await;
    assert_eq!(asking.await.unwrap(), Err(ReadError::TimedOut));
    desk.is_gone(&mark).await;
    desk.dealt_with(1.0).await;
    for trouble in ["failed", "lost"] {
        assert_eq!(desk.metric("tallyhouse_query_kills_total", &[trouble]), 0.0, "{trouble}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_leaves_the_queue_is_never_sent() {
    let engine = support::engine().await;
    let (running, queued) = (new_project(), new_project());
    let desk = Desk::new(&engine.reader(), engine.writer(), Policy::for_total(1));
    let first = desk.ask_for_long(Class::AdHoc, &running);
    desk.runs(&running, 1).await;
    let second = desk.ask_for_long(Class::AdHoc, &queued);
    let waiting = || desk.metric("tallyhouse_query_waiting", &["ad_hoc"]);
    eventually("it waits", async || waiting() == 1.0).await;
    second.abort();
    eventually("it waits no more", async || waiting() == 0.0).await;
    first.abort();
    let small = statement("SELECT 1");
    let after = desk.store.rows::<u8>(&small, &ask(Class::AdHoc, &queued)).await;
    assert_eq!(after, Ok(vec![1]), "the slot is free");
    assert_eq!(desk.running(&queued).await, 0);
    assert_eq!(
        desk.metric("tallyhouse_query_clickhouse_queries_total", &["cancelled"]),
        1.0,
        "only the first was sent"
    );
}

/// A statement of one block, which ClickHouse cannot stop between two blocks, holds its slot until it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_does_not_stop_holds_its_slot_until_it_has() {
    let engine = support::engine().await;
    let (deaf, next) = (new_project(), new_project());
    let desk = Desk::new(&clinging(engine.reader()).await, engine.writer(), Policy::for_total(1));
    let text = format!(
        "SELECT arrayFold((sum, x) -> sipHash64(sum, x), range({DEAF_STEPS}), toUInt64(0)) /* {deaf} */ \
         FROM numbers(1)"
    );
    let asking = desk.ask_for(Class::AdHoc, &deaf, text);
    desk.runs(&deaf, 1).await;
    let began = Instant::now();
    asking.abort();
    let small = statement(&format!("SELECT 1 /* {next} */"));
    let after = desk.store.rows::<u8>(&small, &ask(Class::AdHoc, &next)).await;
    eprintln!("the slot was free after {:?}", began.elapsed());
    assert_eq!((after, desk.running(&deaf).await), (Ok(vec![1]), 0), "the slot is free once the statement is gone");
    assert_eq!(desk.metric("tallyhouse_query_kills_total", &["stopped"]), 1.0);
}

/// Sixty readers for three slots, each gone as soon as its query runs: all queries are stopped, and no slot is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_leaves_is_stopped_and_leaves_its_slots() {
    let (engine, mark) = (support::engine().await, new_project());
    let mut policy = Policy::for_total(8);
    // One is for other projects.
    policy.dashboard.concurrency = 4;
    let desk = Desk::new(&engine.reader(), engine.writer(), policy);
    let mut left = 0.0;
    for _ in 0..20 {
        let crowd: Vec<_> = (0..3).map(|_| desk.ask_for_long(Class::Dashboard, &mark)).collect();
        let begun = || desk.metric("tallyhouse_query_clickhouse_in_flight", &[]);
        eventually("all slots are taken", async || begun() == 3.0).await;
        assert!(desk.running(&mark).await <= 3, "what was left is stopped before its slot is taken");
        crowd.iter().for_each(JoinHandle::abort);
        for reader in crowd {
            assert!(reader.await.unwrap_err().is_cancelled());
        }
        left += 3.0;
    }
    desk.is_gone(&mark).await;
    desk.dealt_with(left).await;
    assert_eq!(desk.metric("tallyhouse_query_kills_total", &["lost"]), 0.0);
    let small = statement("SELECT 1");
    assert_eq!(desk.store.rows::<u8>(&small, &ask(Class::Dashboard, &mark)).await, Ok(vec![1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clickhouse_that_is_gone_is_left_alone_and_bad_questions_are_not_its_fault() {
    let engine = support::engine().await;
    let proxy = Proxy::start(engine.reader()).await;
    let desk = Desk::new(&proxy.connection, engine.writer(), Policy::for_total(8));
    let ask = ask(Class::Dashboard, "p");
    for _ in 0..20 {
        let bad = desk.store.rows::<u8>(&statement("SELECT nothing_like_this"), &ask).await;
        assert_eq!(bad, Err(ReadError::Failed));
    }
    assert_eq!(desk.store.breaker(), BreakerState::Closed);
    proxy.set(Mode::Away);
    let question = statement("SELECT 1");
    let mut asked = 0;
    while desk.store.breaker() == BreakerState::Closed {
        assert_eq!(desk.store.rows::<u8>(&question, &ask).await, Err(ReadError::Unavailable));
        asked += 1;
        assert!(asked < 20, "it should have opened");
    }
    // Nine failures in 29 calls are 31 %.
    assert_eq!(asked, 9);
    proxy.set(Mode::Pass);
    let refused = desk.store.rows::<u8>(&question, &ask).await;
    assert!(
        matches!(refused, Err(ReadError::LeftAlone { retry_after_s: 29..=30 })),
        "it is not even asked: {refused:?}"
    );
    assert_eq!(desk.metric("tallyhouse_query_refused_total", &["dashboard", "breaker"]), 1.0);
    assert_eq!(desk.metric("tallyhouse_query_clickhouse_breaker", &[]), 2.0);
}
