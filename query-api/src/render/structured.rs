//! A structured query's answer as JSON: `results`, the `query` as it was interpreted, and `meta`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::accuracy::Accuracy;
use super::cut::{Cut, Page};
use super::meta::{About, Error, LookedUp, Range};
use super::table::{self, Greatest, Row};
use super::{assemble, json as piece, series};
use crate::cache::Rendered;
use crate::condition::{Condition, How};
use crate::plan::Frame;
use crate::plan::structured::{Compared, Period, StructuredPlan};
use crate::request::ComparedSpan;
use crate::request::structured::{Column, Form, Shape};
use crate::sql::Point;
use crate::time::{Zone, grid};

/// The points of every reading of a plan.
#[derive(Debug, Clone, Default)]
pub struct PlanPoints {
    /// The groups that are shown, where they were found before the period was read.
    pub greatest: Option<Greatest>,
    /// Of the period.
    pub reads: Vec<Vec<Point>>,
    pub totals: Vec<Vec<Point>>,
    /// Of the period before.
    pub previous: Vec<Vec<Point>>,
    pub previous_totals: Vec<Vec<Point>>,
    /// Of what the running bucket is compared with.
    pub previous_running: Vec<Vec<Point>>,
    /// Of all groups that are not shown, as one, where they were asked for and there are any.
    pub others: Option<Others>,
    /// What the period says beside its points.
    pub looked_up: LookedUp,
}

/// What was read of the groups that are not shown.
#[derive(Debug, Clone, Default)]
pub struct Others {
    /// Of the period.
    pub reads: Vec<Vec<Point>>,
    /// Of the period before.
    pub previous: Vec<Vec<Point>>,
    /// Of what the running bucket is compared with.
    pub previous_running: Vec<Vec<Point>>,
}

/// The groups that are shown, and on pages before; `None` where there are no others.
pub fn before_the_rest(plan: &StructuredPlan, found: &PlanPoints) -> Option<Vec<Vec<String>>> {
    if let Form::Series(groups) = plan.shape.form {
        let by_clickhouse = || Greatest::ranked(found.reads.first().map_or(&[], Vec::as_slice), groups);
        let Greatest { groups, truncated, .. } = found.greatest.clone().unwrap_or_else(by_clickhouse);
        return truncated.then_some(groups);
    }
    let mut rows = table::rows(plan, &plan.period, &found.reads);
    table::sort(plan, &mut rows);
    Page::of(plan, &rows).groups_before_the_rest(&rows)
}

/// The same plan without groups.
fn ungrouped(plan: &StructuredPlan) -> StructuredPlan {
    let shape = Shape { by: Vec::new(), ..plan.shape.clone() };
    StructuredPlan { shape, ..plan.clone() }
}

/// The rows of the groups that are not shown: of each bucket in which they have events.
fn other_rows(plan: &StructuredPlan, others: &Others) -> Vec<Row> {
    let mut rows = table::rows(&ungrouped(plan), &plan.period, &others.reads);
    let happened: HashSet<i64> = others.reads.iter().flatten().map(|point| point.at).collect();
    rows.retain(|row| happened.contains(&row.at));
    rows
}

/// Renders what a plan found.
pub fn render(plan: &StructuredPlan, found: &PlanPoints, generated_s: i64) -> Rendered {
    let mut rows = table::rows(plan, &plan.period, &found.reads);
    if let Form::Series(groups) = plan.shape.form {
        return series_of(plan, found, rows, groups, generated_s);
    }
    table::sort(plan, &mut rows);
    let previous = previous_by_row(plan, &found.previous, &found.previous_running);
    let total_rows = rows.len();
    let mut accuracy = Accuracy::of(plan);
    let page = Page::of(plan, &rows);
    let mut results: Vec<Value> = page.rows(&rows).map(|row| result(plan, row, &previous, &mut accuracy)).collect();
    if let Some(others) = &found.others {
        let as_one = ungrouped(plan);
        let previous = previous_by_row(&as_one, &others.previous, &others.previous_running);
        let rows = other_rows(plan, others);
        results.extend(rows.iter().map(|row| marked(plan, result(&as_one, row, &previous, &mut accuracy))));
    }
    let mut data = Map::new();
    data.insert("results".into(), results.into());
    if plan.shape.include.totals {
        data.insert("totals".into(), totals(plan, found, &mut accuracy));
    }
    data.insert("query".into(), echo(plan));
    let about = about(plan, found, accuracy.errors(), generated_s);
    let mut own = own(plan, total_rows, generated_s);
    own.extend(page.cut().map(|cut| ("cut".to_owned(), json!(cut.rest_in_other(found.others.is_some())))));
    assemble(&piece::text(&data), &about, &own)
}

/// The rows as a series of the first metric; of the groups the greatest.
fn series_of(plan: &StructuredPlan, found: &PlanPoints, mut rows: Vec<Row>, groups: u32, generated_s: i64) -> Rendered {
    let by_clickhouse = || Greatest::ranked(found.reads.first().map_or(&[], Vec::as_slice), groups);
    let Greatest { groups: shown, truncated, .. } = found.greatest.clone().unwrap_or_else(by_clickhouse);
    let shown: HashSet<Vec<String>> = shown.into_iter().collect();
    rows.retain(|row| plan.shape.by.is_empty() || shown.contains(&row.groups));
    table::sort(plan, &mut rows);
    let point = |row: &Row| {
        let value = values(plan, &row.metrics).into_iter().next();
        let mut point = Map::from_iter([("timestamp".to_owned(), plan.shape.zone.rfc3339(row.at).into())]);
        point.insert("value".to_owned(), value.unwrap_or_default());
        let groups = plan.shape.by.iter().zip(&row.groups);
        point.extend(groups.map(|(field, group)| (series::label(field.name()).into_owned(), group.as_str().into())));
        Value::from(point)
    };
    let other = |row: &Row| {
        let value = values(plan, &row.metrics).into_iter().next().unwrap_or_default();
        let fields = [
            ("timestamp".to_owned(), plan.shape.zone.rfc3339(row.at).into()),
            ("value".to_owned(), value),
            ("other".to_owned(), true.into()),
        ];
        let groups = plan.shape.by.iter().map(|field| (series::label(field.name()).into_owned(), Value::Null));
        Value::from(fields.into_iter().chain(groups).collect::<Map<String, Value>>())
    };
    let others = found.others.as_ref().map(|others| other_rows(plan, others)).unwrap_or_default();
    let mut data: Vec<(i64, Value)> = rows.iter().map(|row| (row.at, point(row))).collect();
    data.extend(others.iter().map(|row| (row.at, other(row))));
    data.sort_by_key(|(at, _)| *at);
    let data = json!({
        "metric": plan.shape.metrics.first().map(|metric| metric.name.as_str()),
        "granularity": plan.period.frame.as_ref().map(|frame| frame.granularity),
        "timezone": plan.shape.zone.name(),
        "data": data.into_iter().map(|(_, point)| point).collect::<Vec<_>>(),
    });
    let mut own = own(plan, rows.len(), generated_s);
    if !plan.shape.by.is_empty() {
        let by: Vec<&str> = plan.shape.by.iter().map(|field| field.name()).collect();
        own.insert("groups".to_owned(), json!({ "by": by, "limit": groups, "truncated": truncated }));
        let of = found.greatest.as_ref().map(|greatest| greatest.of);
        own.extend(
            truncated.then(|| {
                ("cut".to_owned(), json!(Cut::of_groups(shown.len(), of).rest_in_other(found.others.is_some())))
            }),
        );
    }
    let accuracy = Accuracy::of(plan).with(&rows).with(&others);
    assemble(&piece::text(&data), &about(plan, found, accuracy.errors(), generated_s), &own)
}

type Previous = HashMap<(usize, Vec<String>), Row>;

fn previous_by_row(plan: &StructuredPlan, whole: &[Vec<Point>], running_points: &[Vec<Point>]) -> Option<Previous> {
    let period = plan.previous.as_ref()?;
    let mut rows = table::rows(plan, period, whole);
    if let Some(running) = &period.running {
        let span = Period {
            frame: None,
            from: running.reads.first().map_or(running.at, |read| read.from),
            reads: running.reads.clone(),
            ..period.clone()
        };
        let of_bucket = |row: Row| Row { bucket: running.place, ..row };
        rows.extend(table::rows(plan, &span, running_points).into_iter().map(of_bucket));
    }
    Some(rows.into_iter().map(|row| ((row.bucket, row.groups.clone()), row)).collect())
}

/// A row of the groups that are not shown.
fn marked(plan: &StructuredPlan, mut row: Value) -> Value {
    let mut dimensions = vec![Value::Null; plan.shape.by.len()];
    if let Some(time) = row.pointer("/dimensions/0") {
        dimensions.insert(plan.shape.time_place.min(dimensions.len()), time.clone());
    }
    if let Some(fields) = row.as_object_mut() {
        fields.insert("dimensions".to_owned(), dimensions.into());
        fields.insert("other".to_owned(), true.into());
    }
    row
}

fn result(plan: &StructuredPlan, row: &Row, previous: &Option<Previous>, accuracy: &mut Accuracy<'_>) -> Value {
    accuracy.shows(row);
    let mut dimensions: Vec<Value> = row.groups.iter().map(|group| group.as_str().into()).collect();
    if plan.period.frame.is_some() {
        dimensions.insert(plan.shape.time_place.min(dimensions.len()), plan.shape.zone.rfc3339(row.at).into());
    }
    let comparison = previous.as_ref().map(|previous| {
        let before = previous.get(&(row.bucket, row.groups.clone()));
        let nothing = || plan.shape.metrics.iter().map(|metric| metric.nature().of_nothing).collect();
        accuracy.compares(row, before);
        comparison(plan, &row.metrics, &before.map_or_else(nothing, |before| before.metrics.clone()))
    });
    let fields = [("dimensions", Some(dimensions.into())), ("metrics", Some(values(plan, &row.metrics).into()))];
    object(fields.into_iter().chain([("comparison", comparison)]))
}

/// The metrics before, and by how many per cent each changed since; `null` where there is nothing to compare with.
fn comparison(plan: &StructuredPlan, now: &[Option<f64>], before: &[Option<f64>]) -> Value {
    let change = |(now, before): (&Option<f64>, &Option<f64>)| match (now, before) {
        (Some(now), Some(before)) if *before != 0.0 => Some((now - before) / before.abs() * 100.0),
        _ => None,
    };
    let changes: Vec<Option<f64>> = now.iter().zip(before).map(change).collect();
    json!({ "metrics": values(plan, before), "change_percent": changes })
}

fn values(plan: &StructuredPlan, values: &[Option<f64>]) -> Vec<Value> {
    let value = |(metric, value): (&std::sync::Arc<crate::metric_definitions::Definition>, &Option<f64>)| match value {
        // Counts are exact as floating point numbers up to 2^53.
        Some(count) if metric.is_count() => json!(*count as u64),
        other => json!(other),
    };
    plan.shape.metrics.iter().zip(values).map(value).collect()
}

fn totals(plan: &StructuredPlan, found: &PlanPoints, accuracy: &mut Accuracy<'_>) -> Value {
    let of = |period: &Period, points: &[Vec<Point>]| {
        let whole = Period { frame: None, reads: period.totals.clone(), ..period.clone() };
        table::rows(&ungrouped(plan), &whole, points).into_iter().next()
    };
    let metrics = |row: &Option<Row>| row.as_ref().map(|row| row.metrics.clone()).unwrap_or_default();
    let now = of(&plan.period, &found.totals);
    now.iter().for_each(|now| accuracy.shows(now));
    let comparison = plan.previous.as_ref().map(|period| {
        let before = of(period, &found.previous_totals);
        now.iter().for_each(|now| accuracy.compares(now, before.as_ref()));
        comparison(plan, &metrics(&now), &metrics(&before))
    });
    object([("metrics", Some(values(plan, &metrics(&now)).into())), ("comparison", comparison)])
}

/// The query as it was understood: sent again, it gives the same answer.
fn echo(plan: &StructuredPlan) -> Value {
    let dimensions = dimension_names(plan);
    let column = |column: Column| match column {
        Column::Dimension(place) => dimensions.get(place).cloned().unwrap_or_default(),
        Column::Metric(place) => plan.shape.metrics.get(place).map(|metric| metric.name.clone()).unwrap_or_default(),
    };
    let order = |order: &crate::request::structured::Order| {
        json!([column(order.column), if order.descending { "desc" } else { "asc" }])
    };
    json!({
        "metrics": plan.shape.metrics.iter().map(|metric| metric.name.as_str()).collect::<Vec<_>>(),
        "date_range": range(plan),
        "timezone": plan.shape.zone.name(),
        "dimensions": dimensions,
        "filters": filters(&plan.shape.condition),
        "order_by": plan.shape.order_by.iter().map(order).collect::<Vec<_>>(),
        "pagination": { "limit": plan.shape.limit, "offset": plan.shape.offset },
        "include": {
            "totals": plan.shape.include.totals,
            "total_rows": plan.shape.include.total_rows,
            "other": plan.shape.include.other,
            "time_labels": plan.shape.include.time_labels,
            "comparisons": plan.shape.include.previous_period.map(comparisons),
        },
        "raw": plan.reads_raw(),
    })
}

fn dimension_names(plan: &StructuredPlan) -> Vec<String> {
    let mut names: Vec<String> = plan.shape.by.iter().map(|field| field.name().to_owned()).collect();
    if let Some(frame) = &plan.period.frame {
        names.insert(plan.shape.time_place.min(names.len()), format!("time:{}", frame.granularity.name()));
    }
    names
}

/// With the end that was meant where that says what is compared.
fn range(plan: &StructuredPlan) -> [String; 2] {
    let to = plan.compared.map_or(plan.period.to, |compared| compared.meant_to);
    [plan.shape.zone.rfc3339(plan.period.from), plan.shape.zone.rfc3339(to)]
}

fn comparisons(span: ComparedSpan) -> Value {
    match span {
        ComparedSpan::Equal => "previous_period".into(),
        ComparedSpan::Whole => json!({ "period": "previous_period", "span": span.name() }),
    }
}

fn filters(condition: &Condition) -> Value {
    match condition {
        Condition::And(several) => several.iter().map(filter).collect(),
        one => json!([filter(one)]),
    }
}

fn filter(condition: &Condition) -> Value {
    match condition {
        Condition::And(several) => json!(["and", several.iter().map(filter).collect::<Vec<_>>()]),
        Condition::Or(several) => json!(["or", several.iter().map(filter).collect::<Vec<_>>()]),
        Condition::Not(one) => json!(["not", filter(one)]),
        // Never part of a question.
        Condition::Groups { .. } => Value::Null,
        Condition::Test { field, how: How::Is, values } => json!(["is", field.name(), values]),
        Condition::Test { field, how: How::Contains, values } => json!(["contains", field.name(), values]),
    }
}

pub(crate) fn about<'a>(
    plan: &'a StructuredPlan,
    found: &PlanPoints,
    errors: Vec<(String, Error)>,
    generated_s: i64,
) -> About<'a> {
    About {
        tables: plan.tables(),
        zone: &plan.shape.zone,
        from: plan.period.from,
        to: plan.period.to,
        newest: found.looked_up.newest,
        errors,
        overflowed: found.looked_up.overflowed.clone(),
        generated_s,
    }
}

/// What a structured answer says beside what every answer says.
fn own(plan: &StructuredPlan, total_rows: usize, generated_s: i64) -> Map<String, Value> {
    let (include, frame) = (plan.shape.include, plan.period.frame.as_ref());
    let labels =
        |frame: &Frame| frame.grid().starts().into_iter().map(|at| plan.shape.zone.rfc3339(at)).collect::<Value>();
    let current = |frame: &Frame| {
        let start = grid::floor(frame.granularity, &plan.shape.zone, generated_s).max(frame.from);
        (generated_s < frame.to).then(|| plan.shape.zone.rfc3339(start).into())
    };
    let zone = &plan.shape.zone;
    let previous = |period: &Period| json!(Range::of(zone, period.from, period.to));
    let compared = |compared: Compared| json!(Range::of(zone, plan.period.from, compared.to));
    let starts = |starts: Vec<i64>| {
        let shown = starts.into_iter().map(|at| zone.rfc3339(at)).collect::<Vec<_>>();
        (!shown.is_empty()).then(|| json!(shown))
    };
    let partial_before = plan.previous.as_ref().map(|period| partial(period, zone, i64::MAX)).unwrap_or_default();
    let fields = [
        ("compared_range", plan.compared.map(compared)),
        ("comparison_range", plan.previous.as_ref().map(previous)),
        ("comparison_span", plan.compared.map(|compared| compared.span.name().into())),
        ("partial_buckets", starts(partial(&plan.period, zone, generated_s))),
        ("comparison_partial_buckets", starts(partial_before)),
        ("partial_bucket", frame.and_then(current)),
        ("total_rows", include.total_rows.then(|| total_rows.into())),
        ("time_labels", frame.filter(|_| include.time_labels).map(labels)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Starts of the buckets of which the answer, computed then, does not hold all: the range cuts them, or they are not over.
fn partial(period: &Period, zone: &Zone, generated_s: i64) -> Vec<i64> {
    let of_frame = period.frame.iter().filter(|frame| frame.from < frame.to).flat_map(|frame| {
        let starts = frame.grid().starts();
        let ends: Vec<i64> = starts.iter().map(|start| grid::next(frame.granularity, zone, *start)).collect();
        let is_cut =
            |start: i64, end: i64| start < frame.from || end > frame.to || (start <= generated_s && generated_s < end);
        starts
            .into_iter()
            .zip(ends)
            .filter(|(start, end)| is_cut(*start, *end))
            .map(|(start, _)| start)
            .collect::<Vec<_>>()
    });
    of_frame.chain(period.running.iter().map(|running| running.at)).collect()
}

/// An object of the fields that there are.
fn object(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    fields.collect::<Map<String, Value>>().into()
}
