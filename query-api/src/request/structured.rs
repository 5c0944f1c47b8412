//! `POST /v1/query`: several metrics over one range, by dimensions and time, filtered, ordered and paged.
//!
//! ```json
//! {"metrics": ["events", "users"], "date_range": "7d", "timezone": "Europe/Berlin",
//!  "dimensions": ["time:day", "country"], "filters": [["is", "device", ["mobile"]]],
//!  "order_by": [["events", "desc"]], "pagination": {"limit": 100, "offset": 0},
//!  "include": {"totals": true, "total_rows": true, "comparisons": "previous_period"}, "raw": false}
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::body::JsonPart;
use super::comparison::ComparedSpan;
use super::error::BadRequest;
use super::filter_tree::{self, MOST_TESTS, Tests};
use super::params::Params;
use super::query::{MAX_DIMENSIONS, MetricQuery, event_types_of};
use super::range;
use super::values;
use super::window::Window;
use crate::condition::{Condition, Field};
use crate::metric_definitions::{Definition, Measure, Metric};
use crate::time::{Granularity, Zone};

/// Metrics of one query at most.
const MAX_METRICS: usize = 16;

/// Rows of a page: without `pagination`, and the most.
const ROWS: (u64, u64) = (1_000, 10_000);

/// The farthest page that is given.
const MAX_OFFSET: u64 = 100_000;

const FIELDS: &[&str] =
    &["metrics", "date_range", "timezone", "dimensions", "filters", "order_by", "pagination", "include", "raw"];

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct StructuredQuery {
    /// What the answer holds.
    pub shape: Shape,
    pub window: Window,
    /// Buckets of time, if any are asked for.
    pub time: Option<Time>,
    /// Whether raw events may be read where no rollup answers.
    pub raw: bool,
}

/// What an answer holds, whatever range it is about and wherever it is read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shape {
    /// The metrics, in order.
    #[serde(serialize_with = "definitions")]
    pub metrics: Vec<Arc<Definition>>,
    /// Whose clocks and calendar it follows.
    pub zone: Zone,
    /// What makes groups, without time.
    pub by: Vec<Field>,
    /// The order of columns in a result: where time stands among the dimensions.
    pub time_place: usize,
    /// Which events, whatever the metric.
    pub condition: Condition,
    /// The order of rows.
    pub order_by: Vec<Order>,
    /// Rows of a page.
    pub limit: usize,
    /// Rows before it.
    pub offset: usize,
    /// What comes with it.
    pub include: Include,
    /// How the answer looks.
    pub form: Form,
}

fn definitions<S: Serializer>(metrics: &[Arc<Definition>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(metrics.iter().map(Arc::as_ref))
}

/// How an answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A table of rows.
    Table,
    /// A series of the first metric, of so many groups at most: as of `GET /v1/metrics/{name}`.
    Series(u32),
}

/// Buckets of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Time {
    /// As wide as makes a readable chart.
    Readable,
    /// Of this width.
    Of(Granularity),
}

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Order {
    pub column: Column,
    /// Whether the greatest comes first.
    pub descending: bool,
}

/// A column of the result, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// Among the dimensions as they were asked, time included.
    Dimension(usize),
    /// Among the metrics.
    Metric(usize),
}

/// What comes with a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Include {
    /// All buckets of the range.
    pub time_labels: bool,
    /// The metrics over the whole range, whatever the dimensions.
    pub totals: bool,
    /// How many rows there are on all pages.
    pub total_rows: bool,
    /// The groups beyond the limit, as one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub other: bool,
    /// The period right before, and how much of it.
    pub previous_period: Option<ComparedSpan>,
}

impl StructuredQuery {
    /// Every event type that the caller named, also by a registered metric.
    pub fn event_types(&self) -> BTreeSet<String> {
        let registered = self.shape.metrics.iter().filter(|metric| metric.version > 0);
        let parts = registered.flat_map(|metric| metric.parts.iter().map(|part| &part.condition));
        event_types_of(parts.chain([&self.shape.condition]))
    }

    /// Reads a document; `metric` finds metrics by name, `names` are all of them.
    pub fn parse(
        root: &JsonPart<'_>,
        metric: &dyn Fn(&str) -> Option<Arc<Definition>>,
        names: &dyn Fn() -> Vec<String>,
        now_ms: i64,
    ) -> Result<Self, BadRequest> {
        let fields = root.fields(FIELDS)?;
        let zone = values::zone_field(fields.get("timezone").as_ref())?;
        let metrics = fields.required("metrics")?;
        let defined: Vec<Arc<Definition>> = metrics
            .items(MAX_METRICS)?
            .iter()
            .map(|part| metric(part.text()?).ok_or_else(|| part.unknown("metric", names())))
            .collect::<Result<_, _>>()?;
        if defined.is_empty() {
            return Err(metrics.bad("name at least one metric, such as `events`"));
        }
        let dimensions =
            fields.get("dimensions").map_or_else(|| Ok(Dimensions::default()), |part| dimensions(&part))?;
        fixed_granularity(&metrics, &defined, dimensions.time)?;
        let (limit, offset) = fields.get("pagination").map_or(Ok((ROWS.0, 0)), |part| page(&part))?;
        let order_by =
            fields.get("order_by").map_or_else(|| Ok(Vec::new()), |part| order(&part, &defined, &dimensions))?;
        let condition = filter_tree::parse_any(fields.get("filters").as_ref(), &mut Tests::of_document())?;
        fit_with_filters(&metrics, &defined, &condition)?;
        let include =
            fields.get("include").map_or_else(|| Ok(Include::default()), |part| include(&part, &dimensions.by))?;
        Ok(Self {
            window: range::parse(&fields.required("date_range")?, &zone, now_ms)?,
            time: dimensions.time,
            raw: fields.get("raw").map_or(Ok(false), |part| part.switch())?,
            shape: Shape {
                metrics: defined,
                zone,
                by: dimensions.by,
                time_place: dimensions.time_place,
                condition,
                order_by,
                limit: usize::try_from(limit).unwrap_or(usize::MAX),
                offset: usize::try_from(offset).unwrap_or(usize::MAX),
                include,
                form: Form::Table,
            },
        })
    }

    /// A series of a registered metric: the parameters are those of a built-in one.
    pub fn series(metric: Arc<Definition>, params: &Params, now_ms: i64) -> Result<Self, BadRequest> {
        // Stands for any metric that fixes neither an event type nor a granularity.
        let any = Metric { name: "events", measure: Measure::Events, event_type: None, granularity: None };
        let asked = MetricQuery::of(any, params, now_ms)?;
        Ok(Self {
            window: asked.window,
            time: Some(asked.granularity.map_or(Time::Readable, Time::Of)),
            raw: false,
            shape: Shape {
                metrics: vec![metric],
                condition: asked.condition(),
                by: asked.group_by.into_iter().map(Field::Dimension).collect(),
                time_place: 0,
                zone: asked.zone,
                order_by: Vec::new(),
                limit: usize::MAX,
                offset: 0,
                include: Include { other: asked.other, ..Include::default() },
                form: Form::Series(asked.limit),
            },
        })
    }
}

#[derive(Default)]
struct Dimensions {
    time: Option<Time>,
    time_place: usize,
    by: Vec<Field>,
    names: Vec<String>,
}

fn dimensions(part: &JsonPart<'_>) -> Result<Dimensions, BadRequest> {
    let mut found = Dimensions::default();
    for item in part.items(MAX_DIMENSIONS + 1)? {
        let name = item.text()?;
        if found.names.iter().any(|known| known == name) {
            return Err(item.bad(format!("`{name}` is named twice")));
        }
        if name.trim().is_empty() {
            return Err(item.bad("name a dimension, `event_type` or a width of buckets"));
        }
        match name.strip_prefix("time").map(|rest| (rest, rest.strip_prefix(':'))) {
            Some(("", _) | (_, Some(_))) if found.time.is_some() => {
                return Err(item.bad("time is named twice: one width of buckets at a time"));
            }
            Some(("", _)) => {
                (found.time, found.time_place) = (Some(Time::Readable), found.names.len());
            }
            Some((_, Some(width))) => {
                let names = || Granularity::FINEST_FIRST.map(|granularity| format!("time:{}", granularity.name()));
                let granularity = Granularity::named(width).ok_or_else(|| item.unknown("width of buckets", names()))?;
                (found.time, found.time_place) = (Some(Time::Of(granularity)), found.names.len());
            }
            _ => found.by.push(Field::named(name)),
        }
        found.names.push(name.to_owned());
    }
    Ok(found)
}

fn fixed_granularity(part: &JsonPart<'_>, metrics: &[Arc<Definition>], time: Option<Time>) -> Result<(), BadRequest> {
    let fixed = metrics.iter().find_map(|metric| Some((metric, metric.granularity?)));
    match (fixed, time) {
        (Some((metric, fixed)), other) if other != Some(Time::Of(fixed)) => Err(part.bad(format!(
            "the metric `{}` is about a {}: add the dimension `time:{}`, or ask for `users`",
            metric.name,
            fixed.name(),
            fixed.name()
        ))),
        _ => Ok(()),
    }
}

/// What a registered metric is made of was counted when it was registered; each measure of it is read with the filters.
fn fit_with_filters(part: &JsonPart<'_>, metrics: &[Arc<Definition>], filters: &Condition) -> Result<(), BadRequest> {
    for (item, metric) in part.items(MAX_METRICS)?.iter().zip(metrics) {
        let tests = metric.parts.iter().map(|part| part.condition.tests()).max().unwrap_or(0) + filters.tests();
        if tests > MOST_TESTS {
            return Err(item.bad(format!("with the filters it has {tests} tests, at most {MOST_TESTS} are made")));
        }
    }
    Ok(())
}

fn page(part: &JsonPart<'_>) -> Result<(u64, u64), BadRequest> {
    let fields = part.fields(&["limit", "offset"])?;
    let limit = fields.get("limit").map_or(Ok(ROWS.0), |part| part.number(1, ROWS.1))?;
    Ok((limit, fields.get("offset").map_or(Ok(0), |part| part.number(0, MAX_OFFSET))?))
}

fn order(part: &JsonPart<'_>, metrics: &[Arc<Definition>], dimensions: &Dimensions) -> Result<Vec<Order>, BadRequest> {
    let mut found = Vec::new();
    for item in part.items(MAX_METRICS + MAX_DIMENSIONS)? {
        let pair = item.items(2)?;
        let [name, direction] = pair.as_slice() else {
            return Err(item.not("a pair such as [\"events\", \"desc\"]"));
        };
        let text = name.text()?;
        let metric = metrics.iter().position(|metric| metric.name == text).map(Column::Metric);
        let dimension = || dimensions.names.iter().position(|known| known == text).map(Column::Dimension);
        let columns = || metrics.iter().map(|metric| metric.name.clone()).chain(dimensions.names.clone());
        let column = metric.or_else(dimension).ok_or_else(|| name.unknown("column in this query", columns()))?;
        let descending = match direction.text()? {
            "desc" => true,
            "asc" => false,
            _ => return Err(direction.not("`asc` or `desc`")),
        };
        found.push(Order { column, descending });
    }
    Ok(found)
}

fn include(part: &JsonPart<'_>, by: &[Field]) -> Result<Include, BadRequest> {
    let fields = part.fields(&["time_labels", "totals", "total_rows", "other", "comparisons"])?;
    let switch = |name| fields.get(name).map_or(Ok(false), |part| part.switch());
    if by.is_empty() && switch("other")? {
        return Err(part.bad("`other` needs groups: name a dimension besides time"));
    }
    Ok(Include {
        time_labels: switch("time_labels")?,
        totals: switch("totals")?,
        total_rows: switch("total_rows")?,
        other: switch("other")?,
        previous_period: fields.get("comparisons").map(|part| comparisons(&part)).transpose()?,
    })
}

/// `"previous_period"`, or an object that also says how much of it.
fn comparisons(part: &JsonPart<'_>) -> Result<ComparedSpan, BadRequest> {
    let period = |part: &JsonPart<'_>| match part.text()? {
        "previous_period" => Ok(()),
        _ => Err(part.not("`previous_period`")),
    };
    if part.is_text() {
        return period(part).map(|()| ComparedSpan::Equal);
    }
    let fields = part.fields(&["period", "span"])?;
    period(&fields.required("period")?)?;
    let Some(span) = fields.get("span") else { return Ok(ComparedSpan::Equal) };
    let text = span.text()?;
    let found = ComparedSpan::NAMES.into_iter().find(|(name, _)| *name == text).map(|(_, span)| span);
    found.ok_or_else(|| span.unknown("span", ComparedSpan::NAMES.map(|(name, _)| name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn parsed(text: &str) -> Result<StructuredQuery, BadRequest> {
        let value = body::parse(text.as_bytes())?;
        let metric = |name: &str| Metric::named(name).map(Definition::built_in).map(Arc::new);
        StructuredQuery::parse(&JsonPart::root(&value), &metric, &|| vec!["events".into(), "users".into()], NOW)
    }

    #[test]
    fn a_whole_query_is_read() {
        let query = parsed(
            r#"{"metrics":["events","users"],"date_range":"7d","timezone":"Europe/Berlin",
               "dimensions":["country","time:day"],"filters":[["is","device",["mobile"]]],
               "order_by":[["events","desc"],["time:day","asc"]],"pagination":{"limit":5,"offset":10},
               "include":{"totals":true,"comparisons":"previous_period"},"raw":true}"#,
        )
        .unwrap();
        assert_eq!((query.time, query.shape.time_place), (Some(Time::Of(Granularity::Day)), 1));
        assert_eq!(query.shape.by, [Field::named("country")]);
        let orders: Vec<_> = query.shape.order_by.iter().map(|order| (order.column, order.descending)).collect();
        assert_eq!(orders, [(Column::Metric(0), true), (Column::Dimension(1), false)]);
        assert_eq!((query.shape.limit, query.shape.offset, query.raw), (5, 10, true));
        assert!(
            query.shape.include.totals
                && query.shape.include.previous_period == Some(ComparedSpan::Equal)
                && !query.shape.include.total_rows
        );
    }

    #[test]
    fn errors_say_where_and_what_would_do() {
        for (text, expected) in [
            (r#"[]"#, "a list is not an object"),
            (r#"{}"#, "`metrics`: it must be given"),
            (r#"{"metrics":[]}"#, "`metrics`: name at least one metric"),
            (
                r#"{"metrics":["event"],"date_range":"7d"}"#,
                "`metrics[0]`: there is no metric `event`; known: events, users; did you mean events?",
            ),
            (r#"{"metrics":["events"]}"#, "`date_range`: it must be given"),
            (r#"{"metrics":["events"],"date_range":"7d","dimension":[]}"#, "`dimension`: there is no such field"),
            (
                r#"{"metrics":["events"],"date_range":"7d","dimensions":[""],"raw":true}"#,
                "`dimensions[0]`: name a dimension",
            ),
            (
                r#"{"metrics":["events"],"date_range":"7d","dimensions":["time:2h"]}"#,
                "`dimensions[0]`: there is no width of buckets `time:2h`",
            ),
            (r#"{"metrics":["events"],"date_range":"7d","dimensions":["time","time:day"]}"#, "time is named twice"),
            (
                r#"{"metrics":["events"],"date_range":"7d","dimensions":["a","a"]}"#,
                "`dimensions[1]`: `a` is named twice",
            ),
            (
                r#"{"metrics":["events"],"date_range":"7d","order_by":[["users","desc"]]}"#,
                "`order_by[0][0]`: there is no column in this query `users`",
            ),
            (
                r#"{"metrics":["events"],"date_range":"7d","order_by":[["events","down"]]}"#,
                "`order_by[0][1]`: `down` is not `asc` or `desc`",
            ),
            (
                r#"{"metrics":["events"],"date_range":"7d","pagination":{"limit":0}}"#,
                "`pagination.limit`: `0` is not a whole number from 1 to 10000",
            ),
            (
                r#"{"metrics":["events"],"date_range":"7d","include":{"comparisons":"x"}}"#,
                "`include.comparisons`: `x` is not `previous_period`",
            ),
            (
                r#"{"metrics":["events"],"date_range":"7d","include":{"comparisons":{"period":"previous_period","span":"all"}}}"#,
                "`include.comparisons.span`: there is no span `all`; known: equal, whole",
            ),
            (
                r#"{"metrics":["events"],"date_range":"7d","include":{"comparisons":""}}"#,
                "`include.comparisons`: `` is not `previous_period`",
            ),
            (r#"{"metrics":["events"],"date_range":"7d","timezone":"Europe/Berln"}"#, "did you mean Europe/Berlin"),
            (r#"{"metrics":["daily_active_users"],"date_range":"7d"}"#, "add the dimension `time:day`"),
            (r#"{"metrics":["events"],"date_range":"7d","raw":1}"#, "`raw`: `1` is not true or false"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_metric_has_as_many_tests_as_the_filters_leave() {
        let own = (0..8).fold(Condition::always(), |all, n| all.and(Condition::is(Field::EventType, [n.to_string()])));
        let part = crate::metric_definitions::definition::FormulaPart { measure: Measure::Events, condition: own };
        let events = Definition::built_in(Metric::named("events").unwrap());
        let metric = Arc::new(Definition { parts: vec![part], ..events.clone() });
        let events = Arc::new(events);
        let asked = |filters: usize| {
            let list = (0..filters).map(|n| format!(r#"["is","a",["{n}"]]"#)).collect::<Vec<_>>();
            let lists: Vec<_> = list.chunks(30).map(|some| format!(r#"["and",[{}]]"#, some.join(","))).collect();
            let text = format!(r#"{{"metrics":["events","own"],"date_range":"7d","filters":[{}]}}"#, lists.join(","));
            let value = body::parse(text.as_bytes()).unwrap();
            let find = |name: &str| Some(Arc::clone(if name == "own" { &metric } else { &events }));
            StructuredQuery::parse(&JsonPart::root(&value), &find, &Vec::new, NOW).map_err(|error| error.to_string())
        };
        assert!(asked(92).is_ok());
        assert_eq!(asked(93).unwrap_err(), "`metrics[1]`: with the filters it has 101 tests, at most 100 are made");
        assert!(asked(101).unwrap_err().starts_with("`filters[3][1][10]`: this test is one more than the 100"));
    }
}
