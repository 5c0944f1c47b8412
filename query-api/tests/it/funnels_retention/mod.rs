//! Funnels and retention against a brute-force model, and a few cases that can be checked by eye.

mod model;

use jiff::ToSpan;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use model::{Event, FunnelQuestion, Matcher, RetentionQuestion, Steps};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use tallyhouse_query_api::admission::Policy;
use tallyhouse_query_api::funnels_retention;
use tallyhouse_query_api::plan::{self, Plan};
use tallyhouse_query_api::request::Query;
use tallyhouse_query_api::request::body::{self, JsonPart};
use tallyhouse_query_api::sql::funnels_retention as statements;
use tallyhouse_query_api::store::{AdmissionRequest, Class, Store};
use tallyhouse_query_api::telemetry::Metrics;
use tallyhouse_schema::Catalogue;
use tallyhouse_service::metrics::Registry;
use tallyhouse_sql::Connection;

use tallyhouse_testkit::{self as support, new_project};

/// Clocks change on 2026-10-25 in Berlin and on 2026-11-01 in New York; in Kolkata never.
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"];

/// Long enough that what these tests insert does not expire before they do: until 2081.
const RETENTION_DAYS: u16 = 20_000;

const STEP_TYPES: [char; 4] = ['a', 'b', 'c', 'd'];

fn ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn store(connection: &Connection) -> Store {
    Store::new(connection.client(), Policy::for_total(32), Metrics::register(&Registry::new()).unwrap())
}

fn as_analyst(project: &str) -> AdmissionRequest {
    AdmissionRequest { class: Class::AdHoc, project: project.to_owned(), deadline: None }
}

fn plan(question: &Value, now_ms: i64) -> Plan {
    let value = body::parse(question.to_string().as_bytes()).unwrap();
    let query = Query::of_kind(&JsonPart::root(&value), now_ms).unwrap();
    plan::plan(&query, &Catalogue::default(), now_ms).unwrap()
}

/// Asks, and reads the answer, whose meta is left open.
async fn ask(store: &Store, project: &str, question: &Value, now_ms: i64) -> Value {
    let (ask, now_s) = (as_analyst(project), now_ms / 1_000);
    let answer = match plan(question, now_ms) {
        Plan::Funnel(plan) => funnels_retention::funnel(store, &ask, &plan, now_s).await.unwrap().0,
        Plan::Retention(plan) => funnels_retention::retention(store, &ask, &plan, now_s).await.unwrap().0,
        other => panic!("{other:?}"),
    };
    serde_json::from_str(&format!("{}}}}}", std::str::from_utf8(&answer.head).unwrap())).unwrap()
}

/// Stores events as raw events, every third of them twice, as a batch that was sent again would.
async fn insert(writer: &Connection, project: &str, events: &[Event]) {
    insert_some(writer, project, events, |_| true).await;
    insert_some(writer, project, events, |index| index % 3 == 0).await;
}

async fn insert_some(writer: &Connection, project: &str, events: &[Event], is_meant: impl Fn(usize) -> bool) {
    let rows: Vec<String> = events
        .iter()
        .enumerate()
        .filter(|(index, _)| is_meant(*index))
        .map(|(index, event)| {
            format!(
                "('{project}','{index}','{}','{}.{:03}',{},'{}','{}',[('country','{}')],now64(3),{RETENTION_DAYS})",
                event.event_type,
                event.ms / 1_000,
                event.ms % 1_000,
                event.user,
                event.country,
                event.page,
                event.country,
            )
        })
        .collect();
    if !rows.is_empty() {
        let columns =
            "project_id, event_id, event_type, ts, user_hash, country, page, dims, received_at, retention_days";
        let sql = format!("INSERT INTO tallyhouse.events ({columns}) VALUES {}", rows.join(","));
        support::execute(writer, &sql).await.unwrap();
    }
}

fn event(user: u64, event_type: char, at: &str) -> Event {
    Event { ms: ms(at), user, event_type, country: "DE".to_owned(), page: 'x' }
}

fn users(steps: &Value) -> Vec<u64> {
    steps.as_array().unwrap().iter().map(|step| step["users"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_funnel_by_eye() {
    let (engine, project) = (support::engine().await, new_project());
    let events = [
        // All three steps within a minute, the last at its very end.
        event(1, 'a', "2026-10-20T10:00:00Z"),
        event(1, 'b', "2026-10-20T10:00:30Z"),
        event(1, 'c', "2026-10-20T10:01:00Z"),
        // A millisecond late, but from the second attempt on in time for two steps.
        event(2, 'a', "2026-10-20T10:00:00Z"),
        event(2, 'b', "2026-10-20T10:01:00.001Z"),
        event(2, 'a', "2026-10-20T11:00:00Z"),
        event(2, 'b', "2026-10-20T11:00:10Z"),
        // Something in between: out of a strict order until the second attempt.
        event(3, 'a', "2026-10-20T10:00:00Z"),
        event(3, 'z', "2026-10-20T10:00:01Z"),
        event(3, 'b', "2026-10-20T10:00:02Z"),
        event(3, 'a', "2026-10-20T12:00:00Z"),
        event(3, 'b', "2026-10-20T12:00:20Z"),
        event(3, 'c', "2026-10-20T12:00:30Z"),
        // At once.
        event(4, 'b', "2026-10-20T10:00:00Z"),
        event(4, 'a', "2026-10-20T10:00:00Z"),
        // The wrong way round, nobody, and out of the range.
        event(5, 'b', "2026-10-20T10:00:00Z"),
        event(5, 'a', "2026-10-20T10:00:01Z"),
        event(0, 'a', "2026-10-20T10:00:00Z"),
        event(6, 'a', "2026-10-21T00:00:00Z"),
    ];
    insert(&engine.writer(), &project, &events).await;
    let store = store(&engine.reader());
    let mut question = json!({"kind": "funnel", "date_range": ["2026-10-20", "2026-10-20"], "window": "1m",
        "steps": [{"event_type": "a"}, {"event_type": "b", "name": "second"}, {"event_type": "c"}]});
    let answer = ask(&store, &project, &question, ms("2026-11-20T00:00:00Z")).await;
    let steps = &answer["data"]["steps"];
    assert_eq!(users(steps), [5, 4, 2], "{answer}");
    assert_eq!(
        (&steps[1]["name"], &steps[1]["conversion_from_start"], &steps[2]["conversion_from_previous"]),
        (&json!("second"), &json!(0.8), &json!(0.5))
    );
    // 30 s, 10 s, 2 s and 0 s to the second step; 30 s and 10 s to the third.
    let medians = [&steps[0], &steps[1], &steps[2]].map(|step| &step["median_seconds_from_previous"]);
    assert_eq!(medians, [&Value::Null, &json!(6.0), &json!(20.0)], "{answer}");
    assert_eq!((&steps[1]["dropped"], &steps[2]["dropped"]), (&json!(1), &json!(2)));
    let meta = &answer["meta"];
    assert_eq!((&meta["events"], &meta["events_without_user"]), (&json!(17), &json!(1)));
    assert_eq!(meta["newest_event"], "2026-10-20T12:00:30Z");
    question["order"] = json!("strict_order");
    let answer = ask(&store, &project, &question, ms("2026-11-20T00:00:00Z")).await;
    assert_eq!(users(&answer["data"]["steps"]), [5, 4, 2], "{answer}");
    // 20 s, not 2 s, for the person who was interrupted at first.
    assert_eq!(answer["data"]["steps"][1]["median_seconds_from_previous"], json!(15.0), "{answer}");
}

/// A query cannot be stopped while it is planned. With every step written out wherever another uses it, ten steps were a tree
/// of 16 MB and a second of planning.
#[tokio::test]
async fn a_long_funnel_is_planned_as_a_short_one() {
    let engine = support::engine().await;
    let steps: Vec<Value> = (0..10).map(|step| json!({"event_type": format!("step {step}")})).collect();
    let question =
        json!({"kind": "funnel", "date_range": "30d", "window": "7d", "breakdown": "country", "steps": steps});
    let Plan::Funnel(plan) = plan(&question, ms("2026-11-01T00:00:00Z")) else { panic!("it is a funnel") };
    let statement = statements::funnel(&plan, "p");
    let explain = format!("EXPLAIN QUERY TREE {}", statement.text);
    let client = engine.reader().client();
    let query = statement.params.iter().fold(client.query(&explain), |query, (name, value)| query.param(name, value));
    let tree = query.fetch_all::<String>().await.unwrap();
    let bytes: usize = tree.iter().map(String::len).sum();
    assert!((100_000..2_000_000).contains(&bytes), "{bytes} bytes");
}

#[tokio::test]
async fn one_event_is_one_step() {
    let (engine, project) = (support::engine().await, new_project());
    let events = [
        event(1, 'a', "2026-10-20T10:00:00Z"),
        event(2, 'a', "2026-10-20T10:00:00Z"),
        event(2, 'a', "2026-10-20T10:00:00Z"),
    ];
    insert(&engine.writer(), &project, &events).await;
    let question = json!({"kind": "funnel", "date_range": ["2026-10-20", "2026-10-20"], "window": "1m",
        "steps": [{"event_type": "a"}, {"event_type": "a"}, {"event_type": "a"}]});
    let answer = ask(&store(&engine.reader()), &project, &question, ms("2026-11-20T00:00:00Z")).await;
    assert_eq!(users(&answer["data"]["steps"]), [2, 1, 0], "{answer}");
}

#[tokio::test]
async fn nothing_is_an_answer_of_zeros() {
    let (engine, project) = (support::engine().await, new_project());
    let store = store(&engine.reader());
    let now = ms("2026-10-20T12:00:00Z");
    let mut question = json!({"kind": "funnel", "date_range": "7d", "window": "1d",
        "steps": [{"event_type": "a"}, {"event_type": "b"}]});
    for breakdown in [Value::Null, json!("country")] {
        question["breakdown"] = breakdown;
        let answer = ask(&store, &project, &question, now).await;
        assert_eq!(users(&answer["data"]["steps"]), [0, 0]);
        assert_eq!(answer["data"]["steps"][1]["conversion_from_previous"], json!(0.0));
        assert_eq!((&answer["meta"]["events"], &answer["meta"]["newest_event"]), (&json!(0), &Value::Null));
    }
    assert_eq!(ask(&store, &project, &question, now).await["data"]["breakdown"]["values"], json!([]));
    let question = json!({"kind": "retention", "date_range": "2d", "unit": "day", "periods": 1,
        "cohort": {"event_type": "a"}, "return": {}});
    let answer = ask(&store, &project, &question, now).await;
    let over = json!({"users": 0, "rate": 0.0, "partial": false});
    let running = json!({"users": 0, "rate": 0.0, "partial": true});
    let rows = json!([
        {"cohort": "2026-10-19T00:00:00Z", "users": 0, "partial": false, "periods": [over, running]},
        {"cohort": "2026-10-20T00:00:00Z", "users": 0, "partial": true, "periods": [running, null]},
    ]);
    assert_eq!((&answer["data"], &answer["average"]), (&rows, &json!([0.0, null])), "{answer}");
}

#[tokio::test]
async fn a_project_sees_only_its_own_people() {
    let (engine, project, other) = (support::engine().await, new_project(), new_project());
    let events = [event(1, 'a', "2026-10-20T10:00:00Z"), event(1, 'b', "2026-10-20T10:00:01Z")];
    insert(&engine.writer(), &project, &events).await;
    insert(&engine.writer(), &other, &events[..1]).await;
    let question = json!({"kind": "funnel", "date_range": ["2026-10-20", "2026-10-20"], "window": "1m",
        "steps": [{"event_type": "a"}, {"event_type": "b"}]});
    let store = store(&engine.reader());
    for (project, expected) in [(&project, [1, 1]), (&other, [1, 0])] {
        let answer = ask(&store, project, &question, ms("2026-11-20T00:00:00Z")).await;
        assert_eq!(users(&answer["data"]["steps"]), expected);
    }
}

#[tokio::test]
async fn hostile_texts_are_values_and_nothing_else() {
    let (engine, project) = (support::engine().await, new_project());
    insert(&engine.writer(), &project, &[event(1, 'a', "2026-10-20T10:00:00Z")]).await;
    let store = store(&engine.reader());
    for hostile in
        ["' OR 1=1 --", "\\' OR 1=1 --", "{project:String}", "a\\", "%27) OR (1=1", "\u{202e}a", "`a`", "é😀"]
    {
        let test = json!([["is", hostile, [hostile]], ["contains", "country", [hostile]]]);
        let steps = json!([{"event_type": hostile, "filters": test, "name": hostile}, {"event_type": "a"}]);
        let funnel = json!({"kind": "funnel", "date_range": ["2026-10-20", "2026-10-20"], "window": "1m",
            "steps": steps, "breakdown": "country"});
        let answer = ask(&store, &project, &funnel, ms("2026-11-20T00:00:00Z")).await;
        assert_eq!(users(&answer["data"]["steps"]), [0, 0], "{hostile}");
        assert_eq!(answer["data"]["steps"][0]["name"], hostile);
        let retention = json!({"kind": "retention", "date_range": ["2026-10-20", "2026-10-20"], "unit": "day",
            "periods": 1, "cohort": {"event_type": hostile, "filters": test}, "return": {}});
        let answer = ask(&store, &project, &retention, ms("2026-11-20T00:00:00Z")).await;
        assert_eq!(answer["data"][0]["users"], 0, "{hostile}");
    }
}

#[tokio::test]
async fn what_would_be_read_is_known_before_it_is() {
    let (engine, project) = (support::engine().await, new_project());
    let events = [
        event(1, 'a', "2026-10-20T10:00:00Z"),
        event(2, 'b', "2026-10-20T10:00:00Z"),
        event(3, 'c', "2026-10-20T10:00:00Z"),
        event(4, 'a', "2026-10-21T00:00:00Z"),
    ];
    insert_some(&engine.writer(), &project, &events, |_| true).await;
    let mut question = json!({"kind": "funnel", "date_range": ["2026-10-20", "2026-10-20"], "window": "1m",
        "steps": [{"event_type": "a"}, {"event_type": "b"}]});
    let store = store(&engine.reader());
    // In a strict order `c` matters too.
    for (order, expected) in [("ordered", 2), ("strict_order", 3)] {
        question["order"] = json!(order);
        let scan = match plan(&question, ms("2026-11-20T00:00:00Z")) {
            Plan::Funnel(plan) => plan.scan(),
            Plan::Retention(plan) => plan.scan(),
            other => panic!("{other:?}"),
        };
        let statement = statements::size(&scan, &project);
        let sizes: Vec<statements::Size> = store.rows(&statement, &as_analyst(&project)).await.unwrap();
        assert_eq!(sizes, [statements::Size { events: expected }], "{order}");
    }
}

/// Random events over so many half hours from a start: many at the same millisecond, or just beside it.
fn events(start: i64, half_hours: i64, most: usize) -> impl Strategy<Value = Vec<Event>> {
    let one = (0..half_hours, -1_i64..=1, 0_u64..25, 0_usize..5, 0_usize..14, any::<bool>()).prop_map(
        move |(half_hour, beside, user, event_type, country, page)| Event {
            ms: start + half_hour * 1_800_000 + beside,
            user,
            event_type: ['a', 'b', 'c', 'd', 'e'][event_type],
            country: ["", "__other__", "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L"][country].to_owned(),
            page: if page { 'x' } else { 'y' },
        },
    );
    proptest::collection::vec(one, most / 8..most)
}

fn matcher(event_type: impl Strategy<Value = Option<char>>) -> impl Strategy<Value = Matcher> {
    let page = prop_oneof![3 => Just(None), 1 => Just(Some('x'))];
    (event_type, page).prop_map(|(event_type, page)| Matcher { event_type, page })
}

fn some_type() -> impl Strategy<Value = Option<char>> {
    proptest::sample::select(STEP_TYPES.to_vec()).prop_map(Some)
}

/// As the body says it.
fn written(matcher: Matcher) -> Value {
    let filters = matcher.page.map(|page| json!([["is", "page", [page.to_string()]]]));
    json!({"event_type": matcher.event_type.map(String::from), "filters": filters})
}

fn day_start(zone: &str, date: Date) -> i64 {
    date.to_zoned(TimeZone::get(zone).unwrap()).unwrap().timestamp().as_second()
}

#[derive(Debug, Clone)]
struct FunnelCase {
    steps: Vec<Matcher>,
    filtered: bool,
    zone: &'static str,
    first_day: i64,
    days: i64,
    window: &'static str,
    strict: bool,
}

fn funnel_case() -> impl Strategy<Value = FunnelCase> {
    (
        proptest::collection::vec(matcher(some_type()), 2..5),
        any::<bool>(),
        proptest::sample::select(ZONES.to_vec()),
        0_i64..3,
        0_i64..4,
        proptest::sample::select(vec!["1m", "1h", "5h", "1d"]),
        any::<bool>(),
    )
        .prop_map(|(steps, filtered, zone, first_day, days, window, strict)| FunnelCase {
            steps,
            filtered,
            zone,
            first_day,
            days,
            window,
            strict,
        })
}

impl FunnelCase {
    fn dates(&self) -> (Date, Date) {
        let first = date(2026, 10, 24) + self.first_day.days();
        (first, first + self.days.days())
    }

    fn body(&self) -> Value {
        let (first, last) = self.dates();
        json!({"kind": "funnel", "steps": self.steps.iter().copied().map(written).collect::<Vec<_>>(),
            "date_range": [first.to_string(), last.to_string()], "timezone": self.zone, "window": self.window,
            "order": if self.strict { "strict_order" } else { "ordered" }, "breakdown": "country",
            "filters": if self.filtered { json!([["is_not", "page", ["y"]]]) } else { Value::Null }})
    }

    fn question(&self) -> FunnelQuestion {
        let (first, last) = self.dates();
        let minutes = match self.window {
            "1m" => 1,
            "1h" => 60,
            "5h" => 300,
            _ => 1_440,
        };
        FunnelQuestion {
            steps: self.steps.clone(),
            all: Matcher { event_type: None, page: self.filtered.then_some('x') },
            from: day_start(self.zone, first),
            to: day_start(self.zone, last + 1.day()),
            window_ms: minutes * 60_000,
            strict: self.strict,
        }
    }
}

fn found_steps(steps: &Value) -> Steps {
    let steps = steps.as_array().unwrap().iter();
    let millionths = |step: &Value| step["median_seconds_from_previous"].as_f64().map(model::millionths);
    steps.map(|step| (step["users"].as_u64().unwrap(), millionths(step))).collect()
}

fn found_funnel(answer: &Value) -> model::FunnelAnswer {
    let values = answer["data"]["breakdown"]["values"].as_array().unwrap().iter();
    model::FunnelAnswer {
        total: found_steps(&answer["data"]["steps"]),
        by_country: values.map(|v| (v["value"].as_str().unwrap().to_owned(), found_steps(&v["steps"]))).collect(),
        events: answer["meta"]["events"].as_u64().unwrap(),
        nobodys: answer["meta"]["events_without_user"].as_u64().unwrap(),
    }
}

/// Runs a property in a runtime of its own: what fails is made smaller before it is shown.
fn check<S: Strategy>(cases: u32, strategy: &S, property: impl AsyncFn(S::Value) -> Result<(), TestCaseError>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let outcome = TestRunner::new(config).run(strategy, |case| runtime.block_on(property(case)));
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn funnels_are_those_of_the_model() {
    let strategy = (events(ms("2026-10-23T20:00:00Z"), 96, 500), proptest::collection::vec(funnel_case(), 4));
    check(24, &strategy, async |(events, cases)| {
        let (engine, project) = (support::engine().await, new_project());
        insert(&engine.writer(), &project, &events).await;
        let store = store(&engine.reader());
        for case in cases {
            let answer = ask(&store, &project, &case.body(), ms("2026-11-20T00:00:00Z")).await;
            prop_assert_eq!(found_funnel(&answer), model::funnel(&events, &case.question()), "{:?}", case);
        }
        Ok(())
    });
}

/// What ClickHouse's own function counts for steps of different types, where both mean the same.
#[test]
fn funnels_are_those_of_window_funnel_where_it_can_tell() {
    let strategy = (events(ms("2026-10-24T00:00:00Z"), 96, 400), 1_i64..200);
    check(10, &strategy, async |(events, window_minutes)| {
        let (engine, project) = (support::engine().await, new_project());
        insert(&engine.writer(), &project, &events).await;
        let question = json!({"kind": "funnel", "date_range": ["2026-10-24", "2026-10-25"],
            "window": format!("{window_minutes}m"), "steps": STEP_TYPES.map(|t| json!({"event_type": t.to_string()}))});
        let answer = ask(&store(&engine.reader()), &project, &question, ms("2026-11-20T00:00:00Z")).await;
        let levels = format!(
            "SELECT toString([countIf(l >= 1), countIf(l >= 2), countIf(l >= 3), countIf(l >= 4)]) FROM (SELECT \
             windowFunnel({})(toUInt64(toUnixTimestamp64Milli(ts)), event_type = 'a', event_type = 'b', event_type = 'c', \
             event_type = 'd') AS l FROM tallyhouse.events FINAL WHERE project_id = '{project}' AND user_hash != 0 \
             AND ts >= '2026-10-24 00:00:00' AND ts < '2026-10-26 00:00:00' GROUP BY user_hash)",
            window_minutes * 60_000
        );
        let expected = support::ask(&engine.reader(), &levels).await.unwrap();
        let found = json!(users(&answer["data"]["steps"])).to_string();
        prop_assert_eq!(found, expected);
        Ok(())
    });
}

#[derive(Debug, Clone)]
struct RetentionCase {
    cohort: Matcher,
    returns: Matcher,
    zone: &'static str,
    first_day: i64,
    days: i64,
    weeks: bool,
    periods: usize,
    now_hours: i64,
}

fn retention_case() -> impl Strategy<Value = RetentionCase> {
    let any_type = prop_oneof![1 => Just(None), 3 => some_type()];
    (
        (matcher(some_type()), matcher(any_type)),
        proptest::sample::select(ZONES.to_vec()),
        (0_i64..10, 0_i64..16),
        any::<bool>(),
        1_usize..12,
        0_i64..900,
    )
        .prop_map(|((cohort, returns), zone, (first_day, days), weeks, periods, now_hours)| RetentionCase {
            cohort,
            returns,
            zone,
            first_day,
            days,
            weeks,
            periods,
            now_hours,
        })
}

impl RetentionCase {
    fn dates(&self) -> (Date, Date) {
        let first = date(2026, 10, 16) + self.first_day.days();
        (first, first + self.days.days())
    }

    /// After the range, so that the range is what was asked for: 2 minutes past some hour.
    fn now(&self) -> i64 {
        let (_, last) = self.dates();
        day_start(self.zone, last + 1.day()) + self.now_hours * 3_600 + 120
    }

    fn body(&self) -> Value {
        let (first, last) = self.dates();
        json!({"kind": "retention", "cohort": written(self.cohort), "return": written(self.returns),
            "date_range": [first.to_string(), last.to_string()], "timezone": self.zone,
            "unit": if self.weeks { "week" } else { "day" }, "periods": self.periods})
    }

    fn question(&self) -> RetentionQuestion {
        RetentionQuestion {
            cohort: self.cohort,
            returns: self.returns,
            zone: self.zone.to_owned(),
            dates: self.dates(),
            weeks: self.weeks,
            periods: self.periods,
            now: self.now(),
        }
    }
}

fn found_retention(answer: &Value) -> model::RetentionAnswer {
    let period = |period: &Value| Some((period["users"].as_u64()?, period["partial"].as_bool()?));
    let row = |row: &Value| {
        let periods = row["periods"].as_array().unwrap().iter().map(period).collect();
        (row["users"].as_u64().unwrap(), row["partial"].as_bool().unwrap(), periods)
    };
    model::RetentionAnswer {
        rows: answer["data"].as_array().unwrap().iter().map(row).collect(),
        average: answer["average"].as_array().unwrap().iter().map(|n| n.as_f64().map(model::millionths)).collect(),
        events: answer["meta"]["events"].as_u64().unwrap(),
        nobodys: answer["meta"]["events_without_user"].as_u64().unwrap(),
    }
}

#[test]
fn retention_is_that_of_the_model() {
    let strategy = (events(ms("2026-10-15T00:00:00Z"), 48 * 40, 500), proptest::collection::vec(retention_case(), 4));
    check(24, &strategy, async |(events, cases)| {
        let (engine, project) = (support::engine().await, new_project());
        insert(&engine.writer(), &project, &events).await;
        let store = store(&engine.reader());
        for case in cases {
            let answer = ask(&store, &project, &case.body(), case.now() * 1_000).await;
            prop_assert_eq!(found_retention(&answer), model::retention(&events, &case.question()), "{:?}", case);
        }
        Ok(())
    });
}
