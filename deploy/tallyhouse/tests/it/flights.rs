//! All flights of the data set through HTTP, mixed up and some of them twice; every number that the query API gives must
//! then equal what `loadtest/truth.py` computes from the CSV alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tallyhouse_loadtest::client::{ClientConfig, Until};
use tallyhouse_loadtest::development::QUERY_KEY;
use tallyhouse_loadtest::feed::{self, Feed, FeedConfig, FeedOrder, FeedPlan, TimeShift};
use tallyhouse_loadtest::system::System;
use tallyhouse_service::http_client::{Endpoint, escape};

/// Five standard errors of `uniqCombined64(14)`, 1.04 / sqrt(2^14) each: in one of 5,000 years is a day further off.
const USERS_ERROR: f64 = 5.0 * 0.008_125;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// `(event type, origin, carrier, bucket)`
type Key = (String, String, String, i64);
/// The key, then events, events with a value, sum, min and max.
type Cell = (String, String, String, i64, f64, u64, f64, Option<f64>, Option<f64>);

#[derive(Deserialize)]
struct Truth {
    first: i64,
    last: i64,
    flights: u64,
    cells: BTreeMap<String, Vec<Cell>>,
    tails: BTreeMap<String, Vec<(i64, f64)>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_number_equals_an_independent_computation() {
    // Flights of a whole year in no order touch every bucket of every rollup: inserts are slow, and a request that gave up
    // waiting would be sent again and be reported as duplicates that this test did not plan. So it waits as long as it may, and
    // for few others.
    let settings = [("INGEST_ACK_TIMEOUT_MS", "120000")];
    let system = System::start_with(env!("CARGO_BIN_EXE_tallyhouse").as_ref(), &settings).await.unwrap();
    let until = Timestamp::now();
    let config = FeedConfig {
        flights: flights_csv(),
        time_shift: TimeShift::Shifted { until },
        id_prefix: String::new(),
        plan: FeedPlan { order: FeedOrder::Shuffled { seed: 42 }, batch: 1_000, repeat_percent: 5 },
        concurrency: 24,
        client: ClientConfig {
            // An answer of the query API that comes too early would be cached.
            until: Until::Stored,
            answer_within: Duration::from_secs(180),
            give_up_after: Duration::from_secs(600),
            ..ClientConfig::development(system.ingest_url())
        },
    };
    let feed = Feed::prepare(&config).unwrap();
    let summary = feed::run(&feed, &config, |_, _| {}).await.unwrap();
    let truth = truth(until);

    assert_eq!((summary.handed_back, summary.unanswered), (0, 0), "{summary}");
    assert_eq!(summary.rejected, BTreeMap::new());
    assert_eq!(summary.accepted, truth.flights);
    assert_eq!(summary.duplicates, feed.events() as u64 - truth.flights, "duplicates reported, duplicates sent");

    let api = Api::new(&system, &truth);
    for (granularity, width) in [("hour", HOUR), ("day", DAY)] {
        let cells = &truth.cells[granularity];
        let expected = |measure: fn(&Cell) -> Option<f64>| -> BTreeMap<Key, f64> {
            cells.iter().filter_map(|cell| Some((key(cell), measure(cell)?))).collect()
        };
        api.agrees("events", granularity, width, expected(|cell| Some(cell.4))).await;
        api.agrees("value_sum", granularity, width, expected(|cell| (cell.5 > 0).then_some(cell.6))).await;
        api.agrees("value_min", granularity, width, expected(|cell| cell.7)).await;
        api.agrees("value_max", granularity, width, expected(|cell| cell.8)).await;
    }
    api.tails_agree(&truth.tails["day"]).await;
    system.stop().await.unwrap();
}

/// The query API over the time of the flights.
struct Api {
    endpoint: Endpoint,
    from: i64,
    to: i64,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Point>,
}

#[derive(Deserialize)]
struct Point {
    timestamp: Timestamp,
    value: Option<f64>,
    #[serde(default)]
    origin: String,
    #[serde(default)]
    carrier: String,
}

impl Api {
    fn new(system: &System, truth: &Truth) -> Self {
        let endpoint = Endpoint::new(&system.query_url(), Duration::from_secs(60)).unwrap().api_key(QUERY_KEY).unwrap();
        Self { endpoint, from: truth.first.div_euclid(DAY) * DAY, to: (truth.last.div_euclid(DAY) + 1) * DAY }
    }

    /// Compares a metric by origin and carrier, both ways: nothing is missing and nothing is made up. An answer may leave
    /// out empty buckets or fill them with nothing (null, or 0 for counts and sums); both mean the same.
    async fn agrees(&self, metric: &str, granularity: &str, width: i64, mut expected: BTreeMap<Key, f64>) {
        for event_type in ["flight_departed", "flight_cancelled"] {
            for point in
                self.read(metric, granularity, width, &format!("&eventType={event_type}&groupBy=origin,carrier")).await
            {
                let key = (event_type.to_owned(), point.origin, point.carrier, point.timestamp.as_second());
                match (expected.remove(&key), point.value) {
                    (None, None) => {}
                    (None, Some(value)) => {
                        assert_eq!(value, 0.0, "{metric} by {granularity} has {key:?}, which no flight is in")
                    }
                    (Some(exact), value) => assert_eq!(value, Some(exact), "{metric} by {granularity} at {key:?}"),
                }
            }
        }
        assert_eq!(expected.first_key_value(), None, "{metric} by {granularity} lacks {}", expected.len());
    }

    async fn tails_agree(&self, expected: &[(i64, f64)]) {
        let points = self.read("users", "day", DAY, "").await;
        let counted: BTreeMap<i64, f64> =
            points.into_iter().filter_map(|p| Some((p.timestamp.as_second(), p.value?))).collect();
        for &(day, tails) in expected {
            let counted = counted.get(&day).copied().unwrap_or_default();
            assert!(
                (counted - tails).abs() <= USERS_ERROR * tails,
                "{counted} tail numbers instead of {tails} on {day}"
            );
        }
    }

    /// A metric over the whole time, in as many requests as it takes to stay below 1,440 buckets each.
    async fn read(&self, metric: &str, granularity: &str, width: i64, rest: &str) -> Vec<Point> {
        let mut points = Vec::new();
        let mut from = self.from;
        while from < self.to {
            let to = (from + 480 * width).min(self.to);
            let path = format!(
                "/v1/metrics/{metric}?startTime={}&endTime={}&granularity={granularity}&limit=1000{rest}",
                escape(&instant(from)),
                escape(&instant(to))
            );
            let reply = self.endpoint.get(&path).await.unwrap();
            assert!(reply.status.is_success(), "{path}: {} {}", reply.status, reply.excerpt());
            points.extend(serde_json::from_slice::<Answer>(&reply.body).unwrap().data);
            from = to;
        }
        points
    }
}

fn key(cell: &Cell) -> Key {
    (cell.0.clone(), cell.1.clone(), cell.2.clone(), cell.3)
}

fn instant(second: i64) -> String {
    (Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)).to_string()
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn flights_csv() -> PathBuf {
    let path = repository().join(".setup/flights.csv");
    assert!(path.exists(), "{} is not there: `make test` sets it up", path.display());
    path
}

fn truth(until: Timestamp) -> Truth {
    let script = repository().join("loadtest/truth.py");
    let output =
        Command::new("python3").arg(script).arg(flights_csv()).args(["--until", &until.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
