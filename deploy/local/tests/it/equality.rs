//! Rollups against raw events: questions that nobody thought of, each answered from the planned table, from raw events, and
//! in chunks, and compared.
//!
//! `EQUALITY_EVENTS` and `EQUALITY_QUESTIONS` make it larger than a test needs (`make equality`); `EQUALITY_SEED` repeats one.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tallyhouse_query_api::metric::{Definition, METRICS, Measure};
use tallyhouse_query_api::plan::Unplannable;
use tallyhouse_query_api::plan::chunks::cut;
use tallyhouse_query_api::plan::read::{Read, Source};
use tallyhouse_query_api::plan::structured;
use tallyhouse_query_api::request::StructuredQuery;
use tallyhouse_query_api::request::body::Part;
use tallyhouse_query_api::sql::{self, Point};
use tallyhouse_query_api::time::Zone;
use tallyhouse_schema::{Catalogue, Rollup};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::env::{Env, ProcessEnv};
use tallyhouse_sql::Connection;
use tallyhouse_sql::clickhouse::Client;

use crate::query_service::{Service, new_project};
use crate::support;

const DAY: i64 = 86_400;

/// Both hemispheres' changes of clocks are within a year, whenever that ends; a quarter is dense, for minutes.
const DAYS: i64 = 360;

/// Three with changes of clocks, one of half an hour, one that is never on a whole hour.
const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"];

fn scale(name: &str, default: u64) -> u64 {
    ProcessEnv.get(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

/// Events of a year, late ones among them, in blocks that are each sent twice.
async fn insert(writer: &Connection, project: &str, events: u64, until: i64) {
    const BLOCK: u64 = 250_000;
    const INSERT: &str = "INSERT INTO events_in
        (project_id, event_id, event_type, ts, value, user_hash, country, device, os, dims, received_at, retention_days)
        WITH cityHash64(number, 1) AS h, cityHash64(number, 2) AS g, cityHash64(number, 3) AS f
        SELECT {project:String}, toString(number), ['view', 'purchase', 'flight_departed'][h % 3 + 1] AS type,
            fromUnixTimestamp64Milli({until:Int64} * 1000
                - toInt64(if(g % 10 < 6, g / 10 % 7776000, g / 10 % {span:UInt64})) * 1000 - toInt64(f % 1000), 'UTC'),
            if(f % 7 = 0, NULL, toFloat64(f % 10007) / 8 - 100), if(f % 11 = 0, 0, 1 + g % 3000),
            ['DE', 'FR', 'US', ''][g % 4 + 1] AS c, ['mobile', 'desktop', ''][f % 3 + 1] AS d, ['linux', 'ios'][h % 2 + 1],
            arrayConcat([('country', c), ('device', d), ('country,device', concat(c, char(31), d))],
                if(type != 'flight_departed', [], [('origin', ['JFK', 'LGA'][f % 2 + 1]), ('carrier', ['AA', 'UA', 'DL'][h % 3 + 1]),
                    ('carrier,origin', concat(['AA', 'UA', 'DL'][h % 3 + 1], char(31), ['JFK', 'LGA'][f % 2 + 1]))])),
            now64(3), 730
        FROM numbers({from:UInt64}, {count:UInt64})";
    let mut from = 0;
    while from < events {
        let count = BLOCK.min(events - from);
        for _ in 0..2 {
            let insert = writer
                .client()
                .query(INSERT)
                .param("project", project)
                .param("until", until)
                .param("span", DAYS * DAY)
                .param("from", from)
                .param("count", count)
                .with_setting("async_insert", "0")
                .with_setting("max_insert_block_size", "1048449")
                .with_setting("max_block_size", "1048449")
                .with_setting("min_insert_block_size_rows", "1048449")
                .with_setting("max_threads", "1")
                .with_setting("max_partitions_per_insert_block", "0")
                .with_setting("optimize_on_insert", "0")
                .with_setting("deduplicate_insert", "enable")
                .with_setting("insert_deduplicate", "1")
                .with_setting("deduplicate_insert_select", "force_enable")
                .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
                .with_setting("insert_deduplication_token", format!("{project}-{from}"));
            insert.execute().await.unwrap();
        }
        from += count;
    }
}

fn question(random: &mut StdRng, until: i64) -> Value {
    let zone = ZONES.choose(random).unwrap();
    let unit = *[60, 900, 3_600, DAY, DAY].choose(random).unwrap();
    let length = match unit {
        60 => random.random_range(1..2_000) * 60,
        900 | 3_600 => random.random_range(1..24 * 20) * unit,
        _ => random.random_range(1..200) * DAY,
    };
    let end = until - random.random_range(0..if unit == DAY { 150 * DAY } else { 60 * DAY });
    let zoned = Zone::named(zone).unwrap();
    // Days begin where the clocks of the zone say so.
    let (from, to) = if unit == DAY {
        (zoned.day_start(zoned.date(end - length)), zoned.day_start(zoned.date(end)))
    } else {
        (end / unit * unit - length, end / unit * unit)
    };
    let (from, to) = if from < to { (from, to) } else { (to - DAY, to) };
    let show = |at| Zone::utc().rfc3339(at);
    let many = *[0, 0, 1, 2].choose(random).unwrap();
    let mut dimensions: Vec<String> =
        ["country", "device", "event_type"].into_iter().sample(random, many).into_iter().map(Into::into).collect();
    let mut filters = Vec::new();
    if random.random_bool(0.4) {
        filters.push(condition(random, 2));
    }
    if random.random_bool(0.3) {
        filters.push(json!(["is", "event_type", ["flight_departed"]]));
        if random.random_bool(0.5) {
            let many = random.random_range(1..3);
            dimensions = ["origin", "carrier"].into_iter().sample(random, many).into_iter().map(Into::into).collect();
            filters.retain(|filter| filter.to_string().contains("flight_departed"));
        }
    }
    if random.random_bool(0.7) {
        let widths: &[&str] = match (to - from) / DAY {
            0..=1 => &["minute", "15m", "30m", "hour", "day"],
            2..=20 => &["15m", "hour", "day", "week"],
            _ => &["day", "week", "month"],
        };
        dimensions.push(format!("time:{}", widths.choose(random).unwrap()));
    }
    let metrics: Vec<&str> =
        METRICS.iter().map(|metric| metric.name).filter(|name| *name != "daily_active_users").sample(random, 3);
    json!({"metrics": metrics, "date_range": [show(from), show(to)], "timezone": zone, "dimensions": dimensions, "filters": filters})
}

fn condition(random: &mut StdRng, depth: u32) -> Value {
    let mut some = |values: &[&str], many: usize| values.iter().map(|value| json!(value)).sample(random, many);
    let test = match some(&["country", "device", "contains", "event_type"], 1).first().and_then(Value::as_str) {
        Some("country") => json!(["is", "country", some(&["DE", "FR", ""], 2)]),
        Some("device") => json!(["is_not", "device", some(&["mobile", ""], 1)]),
        Some("contains") => json!(["contains", "device", some(&["MO", "desk", "x"], 1)]),
        _ => json!(["is", "event_type", some(&["view", "purchase"], 1)]),
    };
    match random.random_range(0..if depth == 0 { 1 } else { 6 }) {
        0..3 => test,
        3 => json!(["not", condition(random, depth - 1)]),
        4 => json!(["and", [test, condition(random, depth - 1)]]),
        _ => json!(["or", [test, condition(random, depth - 1)]]),
    }
}

async fn points(client: &Client, read: &Read, project: &str) -> Vec<Point> {
    let statement = sql::read(read, project);
    let query =
        statement.params.iter().fold(client.query(&statement.text), |query, (name, value)| query.param(name, value));
    query.fetch_all().await.unwrap_or_else(|error| panic!("{error}: {statement:?}"))
}

type Table = BTreeMap<(i64, Vec<String>), Vec<Option<f64>>>;

fn table(points: Vec<Point>) -> Table {
    points.into_iter().map(|point| ((point.at, point.groups), point.measured)).collect()
}

/// How far two answers may be apart: nothing where both count; the estimates by what their states allow, five times the
/// standard error of users (which are exact while they are few).
fn is_equal(measure: Measure, source: &Source, planned: Option<f64>, raw: Option<f64>) -> bool {
    let (Some(planned), Some(raw)) = (planned, raw) else { return planned == raw };
    let within = |part: f64| (planned - raw).abs() <= part * planned.abs().max(raw.abs()).max(1e-9);
    match measure {
        Measure::Events | Measure::ValueMin | Measure::ValueMax => planned == raw,
        // The order of additions differs; the values are multiples of 1/8, so sums are exact far beyond this.
        Measure::ValueSum | Measure::ValueAvg => within(1e-12),
        Measure::Users => {
            let error = |precision: u8| 1.04 / f64::from(1_u32 << precision).sqrt();
            within(5.0 * (error(source.users_precision()) + error(Rollup::Hour.users_precision())))
        }
        Measure::ValueQuantile(_) => within(0.021),
    }
}

#[derive(Debug, Default)]
struct Tally {
    questions: usize,
    unanswerable: usize,
    rows: usize,
    values: usize,
    chunks: usize,
    remembered: usize,
    tables: BTreeMap<&'static str, usize>,
}

#[tokio::test]
async fn rollups_answer_what_raw_events_say() {
    let (engine, project) = (support::engine().await, new_project());
    let (events, questions, seed) =
        (scale("EQUALITY_EVENTS", 40_000), scale("EQUALITY_QUESTIONS", 100), scale("EQUALITY_SEED", 7));
    let now_s = now_ms() / 1_000;
    let until = now_s / DAY * DAY;
    insert(&engine.writer(), &project, events, until).await;
    let client = engine.reader().client();
    let catalogue = Catalogue::built_in().unwrap();
    let metric = |name: &str| tallyhouse_query_api::metric::Metric::named(name).map(Definition::built_in).map(Arc::new);
    let one = Service::start(engine.reader(), &[&project], None).await;
    let other = Service::start(engine.reader(), &[&project], None).await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    while tally.questions < questions as usize {
        let asked = question(&mut random, until);
        let query = StructuredQuery::parse(&Part::root(&asked), &metric, &Vec::new, now_s * 1_000)
            .unwrap_or_else(|error| panic!("{asked}: {error}"));
        let plan = match structured::plan(&query, &catalogue, now_s * 1_000) {
            Ok(plan) => plan,
            Err(
                Unplannable::TooManyPoints { .. }
                | Unplannable::TooFineForItsAge { .. }
                | Unplannable::NotRolledUp { .. },
            ) => {
                tally.unanswerable += 1;
                continue;
            }
            Err(error) => panic!("{asked}: {error}"),
        };
        tally.questions += 1;
        for read in &plan.period.reads {
            compare(&client, &project, &asked, read, now_s, &mut tally).await;
        }
        remembered(&[&one, &other], &project, &asked, &mut tally).await;
    }
    one.stop().await;
    other.stop().await;
    eprintln!("equality: seed {seed}, {events} events, each sent twice: {tally:?}");
    assert!(tally.values > tally.questions && tally.tables.len() == 3 && tally.chunks > 0, "{tally:?}");
}

/// One instance after another answers from ClickHouse, then the first again from what it remembers: all the same.
async fn remembered(services: &[&Service; 2], project: &str, asked: &Value, tally: &mut Tally) {
    let mut answers = Vec::new();
    for service in [services[0], services[1], services[0]] {
        let reply = service.post(project, "/v1/query", asked.to_string()).await;
        assert_eq!(reply.status, 200, "{asked}: {reply:?}");
        answers.push((reply.header("x-cache").to_owned(), reply.body["results"].clone()));
    }
    assert!(answers[0].1 == answers[1].1 && answers[1].1 == answers[2].1, "{asked}: {answers:?}");
    assert_eq!(answers[2].0, "HIT", "{asked}");
    tally.remembered += 1;
}

async fn compare(client: &Client, project: &str, asked: &Value, read: &Read, now_s: i64, tally: &mut Tally) {
    let whole = points(client, read, project).await;
    let planned = table(whole.clone());
    let raw = table(points(client, &Read { source: Source::Raw, ..read.clone() }, project).await);
    assert_eq!(planned.keys().collect::<Vec<_>>(), raw.keys().collect::<Vec<_>>(), "{asked} {read:?}");
    for (row, measured) in &planned {
        for ((measure, planned), raw) in read.measures.iter().zip(measured).zip(&raw[row]) {
            assert!(
                is_equal(*measure, &read.source, *planned, *raw),
                "{asked} {row:?} {measure:?}: {planned:?} from {}, {raw:?} from raw events",
                read.source.table()
            );
            tally.values += 1;
        }
    }
    tally.rows += planned.len();
    *tally.tables.entry(read.source.table()).or_default() += 1;
    if let Some(cut) = cut(read, now_s) {
        let mut joined = Vec::new();
        for chunk in &cut.chunks {
            joined.extend(points(client, &chunk.read, project).await.into_iter().filter(|point| cut.keeps(point.at)));
        }
        assert_eq!(table(joined), planned, "{asked} in {} chunks", cut.chunks.len());
        tally.chunks += cut.chunks.len();
    }
}
