//! Random questions: the same ones for the same seed and day.

use std::fmt;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use serde_json::{Value, json};
use tallyhouse_query_api::metric_definitions::{Definition, METRICS};
use tallyhouse_query_api::registry::document;
use tallyhouse_query_api::request::body::JsonPart;
use tallyhouse_query_api::request::query::METRIC_PARAMS;
use tallyhouse_query_api::request::{BadRequest, MetricQuery, Params, Query, StructuredQuery};
use tallyhouse_query_api::time::Zone;
use tallyhouse_schema::{Catalogue, Rollup};

use super::DAY;
use super::odd::COUNTRIES;

/// With changes of clocks, one of them of half an hour, and all kinds of those that are never on a whole hour.
const ZONES: [&str; 14] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Asia/Kabul",
    "Asia/Yangon",
    "America/St_Johns",
    "Australia/Adelaide",
    "Australia/Eucla",
    "Pacific/Chatham",
    "Pacific/Marquesas",
];

/// Registered metrics: of a filter, a ratio, and formulas of measures that add up and of some that do not.
pub fn registered() -> Vec<Value> {
    vec![
        json!({"name": "mobile_value", "measure": "avg", "filters": [["is", "device", ["mobile"]]]}),
        json!({"name": "purchase_share", "ratio": [{"measure": "count", "event_type": "purchase"}, "events"]}),
        json!({"name": "spread", "formula": {"op": "subtract", "left": "value_max", "right": "value_min"}}),
        json!({"name": "margin", "formula": {"op": "subtract",
            "left": {"op": "divide", "left": "revenue", "right": {"measure": "unique", "event_type": "purchase"}},
            "right": {"op": "multiply", "left": "value_p95", "right": 0.25}}}),
    ]
}

/// A question, as it is put to the query API, without its range.
#[derive(Debug, Clone)]
pub enum Form {
    /// `POST /v1/query`.
    Document(Value),
    /// `GET /v1/metrics/{name}`: name and parameters.
    Series(&'static str, String),
}

/// A question.
#[derive(Debug, Clone)]
pub struct Question {
    form: Form,
    range: Range,
}

/// A range of whole units, and where the one begins that ends in its middle.
#[derive(Debug, Clone, Copy)]
struct Range {
    zone: &'static str,
    before: i64,
    from: i64,
    middle: i64,
    to: i64,
}

impl Question {
    /// The same of a range that overlaps with the first half of its own: what is remembered of that is a part of its answer.
    pub fn earlier(&self) -> Self {
        let Range { before, middle, .. } = self.range;
        Self { form: self.form.clone(), range: Range { from: before, to: middle, ..self.range } }
    }

    /// Whether the width of its buckets is left open.
    pub fn leaves_width_open(&self) -> bool {
        let Form::Document(document) = &self.form else { return false };
        document["dimensions"].as_array().is_some_and(|names| names.iter().any(|name| name == "time"))
    }

    /// How it is put: with a body, or as a path.
    pub fn put(&self) -> Form {
        let Range { from, to, .. } = self.range;
        let show = |at| Zone::utc().rfc3339(at);
        let mut form = self.form.clone();
        match &mut form {
            Form::Document(document) => document["date_range"] = json!([show(from), show(to)]),
            Form::Series(_, params) => params.push_str(&format!("&startTime={}&endTime={}", from * 1_000, to * 1_000)),
        }
        form
    }
}

impl fmt::Display for Question {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.put() {
            Form::Document(document) => document.fmt(formatter),
            Form::Series(name, params) => write!(formatter, "{name}?{params}"),
        }
    }
}

/// What the query API knows of metrics.
pub struct Known {
    registered: Vec<Arc<Definition>>,
}

impl Known {
    pub fn new(catalogue: &Catalogue) -> Self {
        let define = |document: Value| {
            let proposal = document::propose(&JsonPart::root(&document), &|_| None, catalogue).unwrap();
            Arc::new(document::definition(&proposal.name, 1, &proposal.document).unwrap())
        };
        Self { registered: registered().into_iter().map(define).collect() }
    }

    fn find(&self, name: &str) -> Option<Arc<Definition>> {
        let own = || self.registered.iter().find(|metric| metric.name == name).cloned();
        document::shared_built_in(name).or_else(own)
    }

    /// The query that a question means.
    pub fn query(&self, question: &Question, now_ms: i64) -> Query {
        let query = match question.put() {
            Form::Document(document) => {
                let find = |name: &str| self.find(name);
                StructuredQuery::parse(&JsonPart::root(&document), &find, &Vec::new, now_ms).map(Query::Structured)
            }
            Form::Series(name, params) => {
                Params::parse(Some(&params), METRIC_PARAMS).and_then(|params| self.series(name, &params, now_ms))
            }
        };
        query.unwrap_or_else(|error| panic!("{question}: {error}"))
    }

    fn series(&self, name: &str, params: &Params, now_ms: i64) -> Result<Query, BadRequest> {
        match self.registered.iter().find(|metric| metric.name == name) {
            Some(metric) => StructuredQuery::series(Arc::clone(metric), params, now_ms).map(Query::Structured),
            None => MetricQuery::parse(name, params, &Vec::new, now_ms).map(Query::Metric),
        }
    }
}

/// Makes up a question about events before `until`.
pub fn question(random: &mut StdRng, until: i64) -> Question {
    if random.random_bool(0.1) {
        let range = last_of_minutes(random, until);
        return Question { form: open_comparison(random, range), range };
    }
    let range = range(random, until);
    let form = if random.random_bool(0.15) { series(random, range) } else { document(random, range) };
    Question { form, range }
}

/// Days of which minutes are still kept; they need not be of those right before.
fn last_of_minutes(random: &mut StdRng, until: i64) -> Range {
    let zone = ZONES.choose(random).unwrap();
    let zoned = Zone::named(zone).unwrap();
    let midnight = |at| zoned.day_start(zoned.date(at));
    let length = random.random_range(1..=30);
    let kept = Rollup::Minute.retention_days();
    let from = until - random.random_range(kept - length..kept) * DAY;
    let [before, from, middle, to] =
        [from - (length / 2 + 1) * DAY, from, from + (length / 2).max(1) * DAY, from + length * DAY].map(midnight);
    Range { zone, before, from, middle, to }
}

fn range(random: &mut StdRng, until: i64) -> Range {
    let zone = ZONES.choose(random).unwrap();
    let unit = *[60, 900, 3_600, DAY, DAY].choose(random).unwrap();
    let length = match unit {
        60 => random.random_range(1..2_000) * 60,
        900 | 3_600 => random.random_range(1..24 * 20) * unit,
        _ => random.random_range(1..200) * DAY,
    };
    // Minutes are kept for 90 days, all else for as long as there are events.
    let end = until - random.random_range(0..if unit == 60 { 60 * DAY } else { 340 * DAY });
    let zoned = Zone::named(zone).unwrap();
    // Days begin where the clocks of the zone say so.
    let whole = |at: i64| if unit == DAY { zoned.day_start(zoned.date(at)) } else { at.div_euclid(unit) * unit };
    let to = whole(end);
    let from = match whole(to - length) {
        from if from < to => from,
        _ => to - DAY,
    };
    let half = (to - from) / 2;
    Range { zone, before: whole(from - half - unit), from, middle: whole(from + half).max(from + unit).min(to), to }
}

/// Widths of buckets that suit a range.
const fn widths(from: i64, to: i64) -> &'static [&'static str] {
    match (to - from) / DAY {
        0..=1 => &["minute", "5m", "15m", "30m", "hour", "day"],
        2..=20 => &["5m", "15m", "30m", "hour", "day", "week"],
        _ => &["day", "week", "month"],
    }
}

fn document(random: &mut StdRng, Range { zone, from, to, .. }: Range) -> Form {
    let many = *[0, 0, 1, 2].choose(random).unwrap();
    let mut dimensions: Vec<String> = some(random, &["country", "device", "event_type"], many);
    let mut filters = Vec::new();
    if random.random_bool(0.4) {
        filters.push(condition(random, &FIELDS, 2));
    }
    if random.random_bool(0.3) {
        let flights = json!(["is", "event_type", ["flight_departed"]]);
        if random.random_bool(0.5) {
            let many = random.random_range(0..3);
            dimensions = some(random, &["origin", "carrier"], many);
            filters = random.random_bool(0.5).then(|| condition(random, &FLIGHT_FIELDS, 1)).into_iter().collect();
        }
        filters.push(flights);
    }
    if random.random_bool(0.7) {
        let width = widths(from, to).choose(random).unwrap();
        let name = if random.random_bool(0.1) { "time".to_owned() } else { format!("time:{width}") };
        dimensions.insert(random.random_range(0..=dimensions.len()), name);
    }
    let metrics = metrics(random, dimensions.iter().any(|name| name == "time:day"));
    let mut question = json!({"metrics": metrics, "timezone": zone,
                              "dimensions": dimensions, "filters": filters});
    if random.random_bool(0.25) {
        question["include"] =
            json!({"totals": random.random_bool(0.7), "total_rows": true, "time_labels": random.random_bool(0.2)});
        if random.random_bool(0.6) {
            question["include"]["comparisons"] = "previous_period".into();
        }
    }
    if random.random_bool(0.2) {
        let columns = metrics.iter().chain(&dimensions);
        let order = columns.sample(random, 1).into_iter().map(|name| json!([name, "desc"])).collect::<Value>();
        question["order_by"] = order;
        question["pagination"] = json!({"limit": random.random_range(1..200), "offset": random.random_range(0..20)});
    }
    Form::Document(question)
}

/// A document that leaves the width of its buckets open and is compared: one has to do for both periods.
fn open_comparison(random: &mut StdRng, Range { zone, .. }: Range) -> Form {
    let mut dimensions = vec!["time".to_owned()];
    let many = random.random_range(0..2);
    dimensions.extend(some(random, &["country", "device", "event_type"], many));
    Form::Document(json!({"metrics": metrics(random, false), "timezone": zone, "dimensions": dimensions,
                          "filters": [], "include": {"comparisons": "previous_period"}}))
}

/// One to seven metrics. Quantiles are in a sixth of the questions: merging their sketches costs ten times what all else
/// does.
fn metrics(random: &mut StdRng, is_by_day: bool) -> Vec<String> {
    let is_plain = |name: &&str| *name != "daily_active_users" && !name.starts_with("value_p");
    let measures = METRICS.iter().map(|metric| metric.name);
    let many = random.random_range(1..=3);
    let mut chosen = measures.clone().filter(is_plain).sample(random, many);
    if random.random_bool(0.16) {
        let many = random.random_range(1..=2);
        chosen.extend(measures.filter(|name| name.starts_with("value_p")).sample(random, many));
    }
    if is_by_day && random.random_bool(0.2) {
        chosen.push("daily_active_users");
    }
    let mut metrics: Vec<String> = chosen.into_iter().map(Into::into).collect();
    if random.random_bool(0.15) {
        metrics
            .extend(registered().iter().filter_map(|metric| metric["name"].as_str()).map(Into::into).sample(random, 1));
    }
    metrics
}

fn series(random: &mut StdRng, Range { zone, from, to, .. }: Range) -> Form {
    let names = METRICS.iter().map(|metric| metric.name).chain(["purchase_share"]);
    let name = names.choose(random).unwrap();
    let width = widths(from, to).choose(random).unwrap();
    let mut params = format!("timezone={zone}");
    if name != "daily_active_users" && random.random_bool(0.9) {
        params.push_str(&format!("&granularity={width}"));
    }
    let mut dimensions = ["country", "device"];
    if random.random_bool(0.3) && !["revenue", "purchase_share"].contains(&name) {
        params.push_str("&eventType=flight_departed");
        dimensions = if random.random_bool(0.5) { ["origin", "carrier"] } else { dimensions };
    }
    if random.random_bool(0.3) {
        params.push_str(match dimensions {
            ["country", _] => "&filter=country:DE,FR",
            _ => "&filter=origin:JFK&filter=carrier:AA,DL",
        });
    }
    let many = random.random_range(0..3);
    let by: Vec<String> = some(random, &dimensions, many);
    if !by.is_empty() {
        params.push_str(&format!("&groupBy={}", by.join(",")));
        // Groups are ranked by the number of users only about right, so that raw events may rank them otherwise.
        if !["users", "daily_active_users"].contains(&name) && random.random_bool(0.3) {
            params.push_str("&limit=2");
        }
    }
    Form::Series(name, params)
}

fn some(random: &mut StdRng, of: &[&str], many: usize) -> Vec<String> {
    of.iter().sample(random, many).into_iter().map(|name| (*name).to_owned()).collect()
}

/// Fields with values to look for, some of which are none's, and with pieces of them.
type Fields = [(&'static str, &'static [&'static str], &'static [&'static str])];

const FIELDS: [(&str, &[&str], &[&str]); 3] = [
    ("country", &["DE", "FR", "", "XX", COUNTRIES[0], COUNTRIES[3], COUNTRIES[4]], &["e", "U", "x"]),
    ("device", &["mobile", "desktop", ""], &["MO", "desk", "x"]),
    ("event_type", &["view", "purchase"], &["view", "PUR"]),
];

const FLIGHT_FIELDS: [(&str, &[&str], &[&str]); 2] =
    [("origin", &["JFK", "LGA", ""], &["j", "GA"]), ("carrier", &["AA", "DL"], &["a", "L"])];

fn condition(random: &mut StdRng, fields: &Fields, depth: u32) -> Value {
    let (field, values, pieces) = *fields.choose(random).unwrap();
    let how = *["is", "is", "is_not", "contains", "contains_not"].choose(random).unwrap();
    let many = random.random_range(1..3);
    let test = json!([how, field, some(random, if how.starts_with("is") { values } else { pieces }, many)]);
    match random.random_range(0..if depth == 0 { 1 } else { 6 }) {
        0..3 => test,
        3 => json!(["not", condition(random, fields, depth - 1)]),
        4 => json!(["and", [test, condition(random, fields, depth - 1)]]),
        _ => json!(["or", [test, condition(random, fields, depth - 1)]]),
    }
}
