//! The canonical question. Two requests that mean the same are equal here, however they were written.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::Serialize;

use super::body::JsonPart;
use super::error::{BadRequest, quoted};
use super::funnel::Funnel;
use super::params::{FILTER, Params};
use super::retention::Retention;
use super::structured::StructuredQuery;
use super::suggest::nearest;
use super::values;
use super::window::Window;
use crate::condition::{Condition, Field};
use crate::metric_definitions::Metric;
use crate::request::anomalies::AnomalyQuery;
use crate::request::event_types::EventTypesQuery;
use crate::time::{Granularity, Zone};

/// Parameters of `GET /v1/metrics/{name}`.
pub const METRIC_PARAMS: &[&str] =
    &["startTime", "endTime", "granularity", "groupBy", FILTER, "eventType", "timezone", "limit", "other"];

/// Parameters of `GET /v1/reports/daily`.
pub const DAILY_PARAMS: &[&str] = &["date", "timezone"];

/// Groups of a grouped series: how many without `limit`, and the most.
pub const GROUPS: (u32, u32) = (100, 1_000);

/// Values that one filter may list.
const MAX_FILTER_VALUES: usize = 100;

/// Dimensions that one query may name; no kept set is larger.
pub const MAX_DIMENSIONS: usize = 8;

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// A series of one metric.
    Metric(MetricQuery),
    /// The last minutes.
    Realtime,
    /// A day.
    Daily(DailyQuery),
    /// What is unusual in a series.
    Anomalies(AnomalyQuery),
    /// How many users take one step after another.
    Funnel(Funnel),
    /// How many users come back.
    Retention(Retention),
    /// Several metrics by any dimensions.
    Structured(StructuredQuery),
    /// Which types of event there are.
    EventTypes(EventTypesQuery),
}

/// A series of one metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricQuery {
    pub metric: Metric,
    /// Only events of this type.
    pub event_type: Option<String>,
    pub window: Window,
    /// The width of buckets, or `None` for the finest that makes a readable chart.
    pub granularity: Option<Granularity>,
    /// Whose clocks and calendar the buckets follow.
    pub zone: Zone,
    /// Dimensions that make separate series, in the order asked.
    pub group_by: Vec<String>,
    /// Conditions, all of which must hold, by dimension.
    pub filters: Vec<Filter>,
    pub limit: u32,
    /// Whether the others come as one.
    pub other: bool,
}

/// A condition: the dimension has one of the values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Filter {
    pub dimension: String,
    /// The values, sorted; the empty value stands for events without this dimension. Without any value nothing passes.
    pub values: Vec<String>,
}

/// A day's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DailyQuery {
    /// The local date.
    pub date: Date,
    pub zone: Zone,
}

/// The values of `kind`.
const KINDS: [&str; 2] = ["funnel", "retention"];

impl Query {
    /// Reads a document whose field `kind` says what it asks for; `now_ms` is the present.
    pub fn of_kind(root: &JsonPart<'_>, now_ms: i64) -> Result<Self, BadRequest> {
        let kind = root.member("kind")?;
        match kind.text()? {
            "funnel" => Funnel::parse(root, now_ms).map(Self::Funnel),
            "retention" => Retention::parse(root, now_ms).map(Self::Retention),
            _ => Err(kind.unknown("kind of query", KINDS)),
        }
    }

    /// Every event type that the caller named, also by a registered metric. What a built-in metric is about is not the caller's.
    pub fn event_types(&self) -> BTreeSet<String> {
        match self {
            Self::Metric(query) => query.event_types(),
            Self::Realtime | Self::Daily(_) => BTreeSet::new(),
            Self::Anomalies(query) => query.series.event_types(),
            Self::Funnel(query) => query.event_types(),
            Self::Retention(query) => query.event_types(),
            Self::Structured(query) => query.event_types(),
            Self::EventTypes(query) => query.event_types(),
        }
    }

    /// Numbers among the values of filters that are not written as they are counted; and how they are.
    pub fn numbers_as_texts(&self) -> BTreeMap<String, String> {
        match self {
            Self::Metric(query) => query.condition().numbers_as_texts(),
            Self::Realtime | Self::Daily(_) | Self::EventTypes(_) => BTreeMap::new(),
            Self::Anomalies(query) => query.series.numbers_as_texts(),
            Self::Funnel(query) => query.numbers_as_texts(),
            Self::Retention(query) => query.numbers_as_texts(),
            Self::Structured(query) => query.shape.condition.numbers_as_texts(),
        }
    }
}

/// The event types that conditions name.
pub(crate) fn event_types_of<'a>(conditions: impl IntoIterator<Item = &'a Condition>) -> BTreeSet<String> {
    conditions.into_iter().flat_map(Condition::named_event_types).map(str::to_owned).collect()
}

impl MetricQuery {
    /// Every event type that the caller named.
    pub fn event_types(&self) -> BTreeSet<String> {
        self.event_type.iter().filter(|_| self.metric.event_type.is_none()).cloned().collect()
    }

    /// Reads the parameters of the built-in metric `name`; `names` are all that could be asked for.
    pub fn parse(
        name: &str,
        params: &Params,
        names: &dyn Fn() -> Vec<String>,
        now_ms: i64,
    ) -> Result<Self, BadRequest> {
        let metric = Metric::named(name).ok_or_else(|| unknown_metric(name, names()))?;
        Self::of(metric, params, now_ms)
    }

    /// Reads the parameters of a metric.
    pub fn of(metric: Metric, params: &Params, now_ms: i64) -> Result<Self, BadRequest> {
        let (zone, group_by) = (values::zone_parameter(params)?, group_by(params)?);
        Ok(Self {
            metric,
            event_type: event_type(metric, params)?,
            window: Window::parse(params.get("startTime"), params.get("endTime"), &zone, now_ms)?,
            granularity: granularity(metric, params)?,
            zone,
            filters: filters(params.filters())?,
            // Without groups it changes nothing: such questions are the same.
            limit: if group_by.is_empty() { limit(params).map(|_| GROUPS.0)? } else { limit(params)? },
            group_by,
            other: other(params)?,
        })
    }

    /// The events that it is about.
    pub fn condition(&self) -> Condition {
        let event_type = self.event_type.iter().map(|name| Condition::is(Field::EventType, [name.clone()]));
        let filter =
            |filter: &Filter| Condition::is(Field::Dimension(filter.dimension.clone()), filter.values.iter().cloned());
        event_type.chain(self.filters.iter().map(filter)).fold(Condition::always(), Condition::and)
    }
}

fn other(params: &Params) -> Result<bool, BadRequest> {
    let malformed = |expected: &str| {
        let given = quoted(params.get("other").unwrap_or_default());
        Err(BadRequest::Malformed { parameter: "other", given, expected: expected.to_owned() })
    };
    match params.get("other") {
        None | Some("false") => Ok(false),
        Some("true") if params.get("groupBy").is_none() => {
            malformed("possible without groups: name dimensions with groupBy")
        }
        Some("true") => Ok(true),
        Some(_) => malformed("true or false"),
    }
}

impl DailyQuery {
    /// Reads the parameters. Without `date` it is yesterday: the last day that is complete.
    pub fn parse(params: &Params, now_ms: i64) -> Result<Self, BadRequest> {
        let zone = values::zone_parameter(params)?;
        let today = zone.date(now_ms.div_euclid(1_000));
        let date = match params.get("date") {
            None => today.yesterday().unwrap_or(today),
            Some(text) => {
                text.parse::<Date>().ok().filter(|_| text.len() == 10).ok_or_else(|| BadRequest::Malformed {
                    parameter: "date",
                    given: quoted(text),
                    expected: "a date, such as 2026-01-31".to_owned(),
                })?
            }
        };
        if date > today {
            let problem = format!("{date} has not begun in {}, where today is {today}", zone.name());
            return Err(BadRequest::BadRange { parameter: "date", problem });
        }
        Ok(Self { date, zone })
    }
}

fn unknown_metric(name: &str, known: Vec<String>) -> BadRequest {
    BadRequest::UnknownMetric { name: quoted(name), near: nearest(name, &known), known }
}

fn event_type(metric: Metric, params: &Params) -> Result<Option<String>, BadRequest> {
    let given = values::event_type_parameter(params)?;
    match (metric.event_type, given) {
        (Some(fixed), Some(given)) if fixed != given => Err(BadRequest::Contradiction {
            parameter: "eventType",
            metric: metric.name,
            fixed: format!("`{fixed}` events"),
            instead: "value_sum",
        }),
        (fixed, given) => Ok(fixed.map(str::to_owned).or(given)),
    }
}

fn granularity(metric: Metric, params: &Params) -> Result<Option<Granularity>, BadRequest> {
    let given = params.get("granularity").map(|text| {
        Granularity::named(text).ok_or_else(|| BadRequest::Malformed {
            parameter: "granularity",
            given: quoted(text),
            expected: format!("one of {}", Granularity::FINEST_FIRST.map(Granularity::name).join(", ")),
        })
    });
    match (metric.granularity, given.transpose()?) {
        (Some(fixed), Some(given)) if fixed != given => Err(BadRequest::Contradiction {
            parameter: "granularity",
            metric: metric.name,
            fixed: format!("a {}", fixed.name()),
            instead: "users",
        }),
        (fixed, given) => Ok(fixed.or(given)),
    }
}

fn group_by(params: &Params) -> Result<Vec<String>, BadRequest> {
    let Some(text) = params.get("groupBy") else { return Ok(Vec::new()) };
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    let distinct: BTreeSet<&String> = names.iter().collect();
    if names.iter().any(String::is_empty) || distinct.len() != names.len() || names.len() > MAX_DIMENSIONS {
        let expected = format!("a list of up to {MAX_DIMENSIONS} different dimensions, such as country,device");
        return Err(BadRequest::Malformed { parameter: "groupBy", given: quoted(text), expected });
    }
    Ok(names)
}

/// Repeated conditions on one dimension must both hold: the values that both list remain, perhaps none.
fn filters(texts: &[String]) -> Result<Vec<Filter>, BadRequest> {
    let mut by_dimension: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for text in texts {
        let (dimension, values) = filter(text)?;
        by_dimension
            .entry(dimension)
            .and_modify(|known| known.retain(|value| values.contains(value)))
            .or_insert(values);
    }
    if by_dimension.len() > MAX_DIMENSIONS {
        let expected = format!("one of at most {MAX_DIMENSIONS} conditions");
        let given = texts.last().map(|text| quoted(text)).unwrap_or_default();
        return Err(BadRequest::Malformed { parameter: FILTER, given, expected });
    }
    let filter =
        |(dimension, values): (String, BTreeSet<String>)| Filter { dimension, values: values.into_iter().collect() };
    Ok(by_dimension.into_iter().map(filter).collect())
}

fn filter(text: &str) -> Result<(String, BTreeSet<String>), BadRequest> {
    let malformed = || BadRequest::Malformed {
        parameter: FILTER,
        given: quoted(text),
        expected: format!(
            "dimension:value[,value…] with at most {MAX_FILTER_VALUES} values; a comma within a value is written \\,"
        ),
    };
    let (dimension, values) = text.split_once(':').ok_or_else(malformed)?;
    let dimension = dimension.trim();
    let values = split_values(values);
    if dimension.is_empty() || values.len() > MAX_FILTER_VALUES {
        return Err(malformed());
    }
    Ok((dimension.to_owned(), values))
}

/// Splits at commas; a backslash makes the next character an ordinary one.
fn split_values(text: &str) -> BTreeSet<String> {
    let mut values = BTreeSet::new();
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.push(chars.next().unwrap_or('\\')),
            ',' => {
                values.insert(std::mem::take(&mut value));
            }
            _ => value.push(c),
        }
    }
    values.insert(value);
    values
}

fn limit(params: &Params) -> Result<u32, BadRequest> {
    let (default, most) = GROUPS;
    let Some(text) = params.get("limit") else { return Ok(default) };
    text.parse().ok().filter(|limit| (1..=most).contains(limit)).ok_or_else(|| BadRequest::Malformed {
        parameter: "limit",
        given: quoted(text),
        expected: format!("a number of groups from 1 to {most}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn metric(name: &str, query: &str) -> Result<MetricQuery, BadRequest> {
        let names = || crate::metric_definitions::METRICS.iter().map(|metric| metric.name.to_owned()).collect();
        MetricQuery::parse(name, &Params::parse(Some(query), METRIC_PARAMS)?, &names, NOW)
    }

    #[test]
    fn the_same_question_in_any_order_is_equal() {
        let one = metric("events", "filter=device:mobile&filter=country:FR,DE,FR&timezone=utc").unwrap();
        let other = metric("events", "timezone=UTC&filter=country:DE,FR&filter=device:mobile").unwrap();
        assert_eq!(one, other);
        assert_eq!(one.filters[0], Filter { dimension: "country".into(), values: vec!["DE".into(), "FR".into()] });
    }

    #[test]
    fn conditions_on_one_dimension_must_all_hold() {
        let values = |query| metric("events", query).unwrap().filters[0].values.clone();
        assert_eq!(values("filter=country:DE,FR&filter=country:FR,US"), ["FR"]);
        assert!(values("filter=country:DE&filter=country:FR").is_empty());
        assert_eq!(values("filter=country:"), [""]);
        assert_eq!(values("filter=page:a:b%5C,c,d"), ["a:b,c", "d"]);
    }

    #[test]
    fn a_metric_may_fix_what_it_is_about() {
        assert_eq!(metric("revenue", "").unwrap().event_type.as_deref(), Some("purchase"));
        assert!(metric("revenue", "eventType=purchase").is_ok());
        assert_eq!(metric("daily_active_users", "").unwrap().granularity, Some(Granularity::Day));
    }

    #[test]
    fn errors_name_the_parameter_and_what_would_do() {
        let long = format!("eventType={}", "x".repeat(201));
        let many = format!("filter=country:{}", (0..101).map(|i| i.to_string()).collect::<Vec<_>>().join(","));
        for (name, query, expected) in [
            ("revenu", "", "there is no metric `revenu`; did you mean revenue?"),
            ("events'; DROP TABLE events", "", "there is no metric `events'; DROP TABLE events`; did you mean events?"),
            ("events", "granularity=2h", "`granularity`: `2h` is not one of minute, 5m, 15m"),
            ("events", "timezone=Europe/Berln", "is not an IANA time zone; did you mean Europe/Berlin"),
            ("events", "groupBy=country,,device", "`groupBy`: `country,,device` is not a list"),
            ("events", "groupBy=country,country", "`groupBy`"),
            ("events", "filter=country", "`filter`: `country` is not dimension:value"),
            ("events", "filter=:DE", "`filter`"),
            ("events", &many, "at most 100 values"),
            ("events", &long, "`eventType`"),
            ("events", "limit=0", "`limit`: `0` is not a number of groups from 1 to 1000"),
            ("events", "limit=1%20OR%201=1", "`limit`"),
            ("revenue", "eventType=other", "always about `purchase` events; leave it out, or ask for `value_sum`"),
            ("daily_active_users", "granularity=hour", "always about a day; leave it out, or ask for `users`"),
        ] {
            let error = metric(name, query).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}?{query}: {error}");
        }
    }

    #[test]
    fn a_report_is_about_yesterday_unless_said_otherwise() {
        let daily = |query| DailyQuery::parse(&Params::parse(Some(query), DAILY_PARAMS).unwrap(), NOW);
        assert_eq!(daily("").unwrap().date.to_string(), "2026-11-19");
        assert_eq!(daily("timezone=Pacific/Kiritimati").unwrap().date.to_string(), "2026-11-20");
        assert!(daily("date=2026-11-20").is_ok());
        assert!(
            daily("date=2026-11-21")
                .unwrap_err()
                .to_string()
                .contains("has not begun in UTC, where today is 2026-11-20")
        );
        assert!(daily("date=20261101").unwrap_err().to_string().contains("`date`: `20261101` is not a date"));
    }

    #[test]
    fn the_kind_decides() {
        let parsed =
            |text: &str| Query::of_kind(&JsonPart::root(&crate::request::body::parse(text.as_bytes()).unwrap()), 0);
        for (text, expected) in [
            ("[]", "a list is not an object"),
            ("{}", "`kind`: it must be given"),
            (r#"{"kind":1}"#, "`kind`: `1` is not a text"),
            (
                r#"{"kind":"funel"}"#,
                "`kind`: there is no kind of query `funel`; known: funnel, retention; did you mean",
            ),
            (r#"{"kind":"funnel"}"#, "`steps`: it must be given"),
            (r#"{"kind":"retention"}"#, "`cohort`: it must be given"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
