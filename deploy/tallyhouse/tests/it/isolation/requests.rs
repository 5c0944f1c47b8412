//! Requests that are made up: every path, with parameters that hold and such that do not.

use std::fmt;

use hyper::Method;
use serde_json::{Value, json};
use tallyhouse_control::operations::Operations;
use tallyhouse_control::{Control, FixedKeys};
use tallyhouse_service::access::Rules;

use super::statements;

/// Which service.
#[derive(Debug, Clone, Copy)]
pub enum Service {
    Query,
    Ingest,
}

/// Which of a tenant's keys: as in `world::Tenant::keys`.
pub const QUERY: usize = 0;
pub const INGEST: usize = 1;
pub const ADMIN: usize = 2;

/// The same whoever asks, but for the key.
#[derive(Debug, Clone)]
pub struct Request {
    pub service: Service,
    pub method: String,
    pub target: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    pub key: usize,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} {}", self.method, self.target, self.headers, self.body)
    }
}

/// `SplitMix64`: a request is a function of the seed.
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }

    pub fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const METRICS: &[&str] = &[
    "events",
    "users",
    "daily_active_users",
    "revenue",
    "value_sum",
    "value_avg",
    "value_max",
    "value_p95",
    "theirs",
    "nothing",
];
const TYPES: &[&str] = &["purchase", "view", "theirs", "nothing"];
const DIMENSIONS: &[&str] = &["country", "device", "country,device", "theirs"];
const GRANULARITIES: &[&str] = &["hour", "day", "15m", "5m", "minute", "week", "month"];
const ZONES: &[&str] = &["UTC", "Europe/Berlin", "Asia/Kolkata", "Mars/Base"];
const STARTS: &[&str] =
    &["startTime={30d}", "startTime={2d}", "startTime={12d}&endTime={8d}", "", "startTime=yesterday"];
/// What stands for a part of a path.
const PARTS: &[&str] = &["theirs", "iso-b", "purchase", "events", "1"];

/// Paths that are no routes of today, and pages of operators.
const OTHER_PATHS: &[&str] = &[
    "/v1/admin/projects",
    "/v1/admin/projects/iso-b",
    "/v1/admin/keys",
    "/v1/admin/keys?project=iso-b",
    "/v1/admin/audit",
    "/v1/admin/audit?project=iso-b",
    "/v1/admin/jobs",
    "/v1/admin/jobs?project=iso-b",
    "/v1/admin/grants",
    "/v1/admin/grants?project=iso-b",
    "/v1/admin/schemas",
    "/v1/admin/schemas?project=iso-b",
    "/v1/admin/schemas/theirs",
    "/v1/schemas",
    "/v1/schemas/theirs",
    "/v1/schemas/theirs/observed",
    "/v1/schemas/purchase/observed",
    "/v1/privacy/erasures",
    "/v1/privacy/exports",
    "/v1/privacy/exports/theirs",
    "/v1/privacy/erasures/theirs",
    "/",
    "/openapi.json",
    "/v1/nothing",
    "/v1/events",
    "/health",
    "/metrics",
    "/v1/cache",
    "/v1/touched",
];

/// Headers that a caller could hope to be believed.
const HOPES: &[(&str, &str)] = &[
    ("X-Project", "iso-b"),
    ("X-Project-Id", "iso-b"),
    ("X-Tallyhouse-Project", "iso-b"),
    ("X-Tallyhouse-Stop", "x"),
    ("X-ClickHouse-User", "writer"),
    ("X-ClickHouse-Database", "tallyhouse"),
    ("X-Forwarded-User", "iso-b"),
    ("X-Original-URL", "/v1/export?project=iso-b"),
    ("If-None-Match", "*"),
    ("Cache-Control", "only-if-cached"),
    ("Origin", "http://127.0.0.1"),
    ("Accept-Encoding", "identity"),
];

fn days_ago(days: i64) -> i64 {
    (tallyhouse_service::clock::now_ms() / 86_400_000 - days) * 86_400_000
}

fn get(target: String) -> Request {
    Request {
        service: Service::Query,
        method: "GET".to_owned(),
        target,
        headers: Vec::new(),
        body: String::new(),
        key: QUERY,
    }
}

fn post(target: &str, body: &Value) -> Request {
    let headers = vec![("Content-Type", "application/json".to_owned())];
    Request { method: "POST".to_owned(), headers, body: body.to_string(), ..get(target.to_owned()) }
}

/// Any request.
pub fn generate(dice: &mut Dice) -> Request {
    let mut request = match dice.below(20) {
        0..=5 => get(format!("/v1/metrics/{}?{}", dice.pick(METRICS), parameters(dice))),
        6 => get(format!(
            "/v1/metrics/{}/stream?window=1h&interval=1&{}",
            dice.pick(METRICS),
            dice.pick(&["", "groupBy=country", "eventType=purchase"])
        )),
        7 => get(format!("/v1/metrics/{}/anomalies?granularity=day&{}", dice.pick(METRICS), of_series(dice))),
        8 => get(dice
            .pick(&["/v1/metrics", "/v1/dashboards/realtime", "/v1/reports/daily", "/v1/reports/daily?date=2020-01-01"])
            .to_owned()),
        9 => get(format!("/v1/event-types?{}&eventType={}", start(dice), dice.pick(TYPES))),
        10 => get(format!("/v1/event-types?{}", start(dice))),
        11 | 12 => get(format!(
            "/v1/export?{}&format={}&{}",
            start(dice),
            dice.pick(&["ndjson", "csv", "parquet"]),
            of_export(dice)
        )),
        13 | 14 => post("/v1/query", &question(dice)),
        15 | 16 => post(
            "/v1/sql",
            &json!({"sql": statements::of_tables(dice), "format": dice.pick(&["json", "csv", "ndjson"])}),
        ),
        17 => sent(dice),
        18 if dice.below(2) == 0 => {
            let routes = all_routes();
            let route = &routes[dice.below(routes.len())];
            of_route(dice, route)
        }
        18 => administered(dice),
        _ => registered(dice),
    };
    if dice.below(4) == 0 {
        let (name, value) = HOPES[dice.below(HOPES.len())];
        request.headers.push((name, value.to_owned()));
    }
    if dice.below(20) == 0 {
        request.target.push_str(if request.target.contains('?') { "&" } else { "?" });
        request.target.push_str(dice.pick(&[
            "project=iso-b",
            "project_id=iso-b",
            "key=x",
            "fresh=true",
            "fresh=true&fresh=true",
            "tenant=iso-b",
        ]));
    }
    request
}

/// Every route of both services, as their tables of rights have them.
pub fn all_routes() -> Vec<(Service, Method, &'static str)> {
    let query = tallyhouse_query_api::http::routes();
    let ingest = tallyhouse_ingest::http::routes();
    let control = tallyhouse_control::http::routes(Operations::new(Control::fixed(FixedKeys::default())));
    let of =
        |service, rules: &Rules| rules.iter().map(|rule| (service, rule.method.clone(), rule.path)).collect::<Vec<_>>();
    [of(Service::Query, query.rules()), of(Service::Query, control.rules()), of(Service::Ingest, ingest.rules())]
        .concat()
}

/// A request of a route that nothing else is known of.
pub fn of_route(dice: &mut Dice, (service, method, path): &(Service, Method, &'static str)) -> Request {
    let filled = path.split('/').map(|part| if part.starts_with('{') { dice.pick(PARTS) } else { part });
    let target =
        format!("{}{}", filled.collect::<Vec<_>>().join("/"), dice.pick(&["", "", "?project=iso-b", "?limit=1000"]));
    let body = match dice.below(3) {
        _ if *method == Method::GET => Value::Null,
        0 => json!({}),
        1 => json!({"project": "iso-b", "name": "theirs", "userId": "theirs"}),
        _ => {
            json!({"scopes": ["query"], "project": "iso-b", "note": "x", "type": "theirs", "schema": {"type": "object"}})
        }
    };
    let key = match (service, dice.below(3)) {
        (Service::Ingest, 0 | 1) => INGEST,
        (_, 2) => QUERY,
        _ => ADMIN,
    };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = vec![("Content-Type", "application/json".to_owned())];
    Request { service: *service, method: method.as_str().to_owned(), target, headers, body, key }
}

fn start(dice: &mut Dice) -> String {
    let text = dice.pick(STARTS);
    [("{30d}", 30), ("{2d}", 2), ("{12d}", 12), ("{8d}", 8)]
        .iter()
        .fold(text.to_owned(), |text, (name, days)| text.replace(name, &days_ago(*days).to_string()))
}

fn parameters(dice: &mut Dice) -> String {
    let mut all = vec![start(dice), format!("granularity={}", dice.pick(GRANULARITIES))];
    if dice.below(2) == 0 {
        all.push(format!("groupBy={}", dice.pick(DIMENSIONS)));
    }
    if dice.below(3) == 0 {
        all.push(format!("eventType={}", dice.pick(TYPES)));
    }
    if dice.below(4) == 0 {
        all.push(format!("filter=country:{}", dice.pick(&["DE", "", "theirs", "DE,theirs"])));
    }
    if dice.below(4) == 0 {
        all.push(format!("timezone={}", dice.pick(ZONES)));
    }
    if dice.below(6) == 0 {
        all.push(dice.pick(&["limit=1&other=true", "limit=1000", "limit=0"]).to_owned());
    }
    all.retain(|part| !part.is_empty());
    all.join("&")
}

fn of_series(dice: &mut Dice) -> String {
    format!("{}&eventType={}", start(dice), dice.pick(TYPES))
}

fn of_export(dice: &mut Dice) -> String {
    format!("eventType={}", dice.pick(TYPES))
}

fn question(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({"kind": "funnel", "date_range": "30d", "window": "1d",
            "steps": [{"event_type": dice.pick(TYPES)}, {"event_type": dice.pick(TYPES)}], "breakdown": dice.pick(&["country", "device", "theirs"])}),
        1 => {
            json!({"kind": "retention", "date_range": "30d", "unit": "week", "periods": 3, "cohort": {"event_type": dice.pick(TYPES)}, "return": {}})
        }
        2 => {
            json!({"metrics": ["events"], "date_range": "30d", "raw": true, "dimensions": [dice.pick(&["theirs", "plan", "country", "event_type"])]})
        }
        _ => {
            json!({"metrics": [dice.pick(METRICS), "events"], "date_range": dice.pick(&["30d", "12mo", "24h"]), "dimensions": [dice.pick(&["event_type", "country", "device", "time:day"])],
            "filters": [[dice.pick(&["is_not", "contains_not"]), "event_type", ["nobody"]]],
            "include": {"totals": true, "total_rows": true}})
        }
    }
}

/// Events, of which one repeats the id of another project's.
fn sent(dice: &mut Dice) -> Request {
    let event = json!({"eventId": dice.pick(&["theirs-1", "theirs-2", "mine-1"]), "eventType": dice.pick(TYPES), "userId": "theirs",
        "properties": {"value": 1, "country": "DE"}, "project": "iso-b", "project_id": "iso-b"});
    let target = dice.pick(&["/v1/events", "/v1/events?wait=stored", "/v1/events?project=iso-b"]);
    let body = if dice.below(2) == 0 { event } else { json!({"events": [event, {"eventType": ""}, 5]}) };
    Request { service: Service::Ingest, key: INGEST, ..post(target, &body) }
}

fn administered(dice: &mut Dice) -> Request {
    let target = dice.pick(OTHER_PATHS).to_owned();
    let method = ["GET", "GET", "POST", "PATCH", "PUT"][dice.below(5)];
    let body = if method == "GET" {
        String::new()
    } else {
        json!({"project": "iso-b", "user_id": "theirs", "userId": "theirs", "name": "theirs"}).to_string()
    };
    let service = if dice.below(4) == 0 { Service::Ingest } else { Service::Query };
    let headers = vec![("Content-Type", "application/json".to_owned())];
    Request {
        service,
        method: method.to_owned(),
        headers,
        body,
        key: [ADMIN, ADMIN, QUERY][dice.below(3)],
        ..get(target)
    }
}

/// A metric of the name that another project has.
fn registered(dice: &mut Dice) -> Request {
    let replaces = if dice.below(2) == 0 { json!(1) } else { Value::Null };
    let document = json!({"name": "theirs", "measure": "count", "event_type": dice.pick(TYPES), "replaces": replaces});
    Request { key: ADMIN, ..post("/v1/metrics", &document) }
}
