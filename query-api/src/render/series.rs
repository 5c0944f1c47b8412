//! A metric's series as JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::cut::Cut;
use super::meta::{About, Error, LookedUp};
use super::{assemble, json};
use crate::cache::Rendered;
use crate::plan::SeriesPlan;
use crate::sql::Point;
use crate::time::grid;

/// What a series says beside what every answer says.
#[derive(Serialize)]
struct Own<'a> {
    /// Start of the newest bucket in which something happened.
    newest_bucket: Option<String>,
    /// Start of the bucket that is not over yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Groups<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<Cut>,
}

#[derive(Serialize)]
struct Groups<'a> {
    by: &'a [String],
    limit: u32,
    truncated: bool,
}

/// Renders what a plan found. Without groups every bucket of the range is there; with groups only those with events.
pub fn render(
    plan: &SeriesPlan,
    points: &[Point],
    others: &[Point],
    looked_up: LookedUp,
    generated_s: i64,
) -> Rendered {
    let zone = &plan.frame.zone;
    let newest = points.iter().map(|point| point.at).max();
    let grouped = !plan.group_by.is_empty();
    let data = if grouped { with_groups(plan, points, others) } else { without_gaps(plan, points) };
    let body = format!(
        "{{\"metric\":{},\"granularity\":{},\"timezone\":{},\"data\":[{}]}}",
        json::text(&plan.metric),
        json::text(&plan.frame.granularity),
        json::text(zone),
        data.join(",")
    );
    let truncated = points.iter().any(|point| point.rank > plan.limit);
    let own = Own {
        newest_bucket: newest.map(|at| zone.rfc3339(at)),
        partial_bucket: (generated_s < plan.frame.to).then(|| {
            let current = grid::floor(plan.frame.granularity, zone, generated_s);
            zone.rfc3339(current.max(plan.frame.from))
        }),
        groups: grouped.then_some(Groups { by: &plan.group_by, limit: plan.limit, truncated }),
        cut: truncated.then(|| Cut::of_groups(plan.limit as usize, None).rest_in_other(plan.other)),
    };
    assemble(&body, &about(plan, looked_up, generated_s), &own)
}

pub(crate) fn about(plan: &SeriesPlan, looked_up: LookedUp, generated_s: i64) -> About<'_> {
    let error = Error::of(plan.measure, &plan.source).map(|error| (plan.metric.to_owned(), error));
    About {
        tables: vec![plan.source.table()],
        zone: &plan.frame.zone,
        from: plan.frame.from,
        to: plan.frame.to,
        newest: looked_up.newest,
        errors: error.into_iter().collect(),
        overflowed: looked_up.overflowed,
        generated_s,
    }
}

fn without_gaps(plan: &SeriesPlan, points: &[Point]) -> Vec<String> {
    let found: BTreeMap<i64, Option<f64>> = points.iter().map(|point| (point.at, value_of(point))).collect();
    let value = |at| found.get(&at).copied().unwrap_or(plan.measure.of_nothing());
    plan.frame.grid().starts().into_iter().map(|at| point(plan, at, value(at), "")).collect()
}

/// The groups that are not shown come last in each bucket.
fn with_groups(plan: &SeriesPlan, points: &[Point], others: &[Point]) -> Vec<String> {
    let labels: Vec<String> = plan.group_by.iter().map(|name| json::text(&label(name))).collect();
    let dims = |values: &[String]| {
        labels.iter().zip(values).map(|(label, value)| format!(",{label}:{}", json::text(value))).collect::<String>()
    };
    let shown = points.iter().filter(|point| point.rank <= plan.limit);
    let nulls: String = labels.iter().map(|label| format!(",{label}:null")).collect();
    let shown = shown.map(|shown| (shown.at, point(plan, shown.at, value_of(shown), &dims(&shown.groups))));
    let other = |other: &Point| (other.at, point(plan, other.at, value_of(other), &format!("{nulls},\"other\":true")));
    let mut data: Vec<(i64, String)> = shown.chain(others.iter().map(other)).collect();
    data.sort_by_key(|(at, _)| *at);
    data.into_iter().map(|(_, point)| point).collect()
}

fn value_of(point: &Point) -> Option<f64> {
    point.measured.first().copied().flatten()
}

fn point(plan: &SeriesPlan, at: i64, value: Option<f64>, dims: &str) -> String {
    let value = json::number(value, plan.measure.is_count());
    format!("{{\"timestamp\":\"{}\",\"value\":{value}{dims}}}", plan.frame.zone.rfc3339(at))
}

/// A dimension may be called as one of our own fields.
pub(super) fn label(dimension: &str) -> Cow<'_, str> {
    match dimension {
        "timestamp" | "value" | "other" => format!("dimension.{dimension}").into(),
        _ => dimension.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tallyhouse_schema::{DimSet, Rollup};

    use super::*;
    use crate::cache::CacheStatus;
    use crate::cache::Entry;
    use crate::condition::Condition;
    use crate::metric_definitions::Measure;
    use crate::plan::Frame;
    use crate::plan::read::Source;
    use crate::render::complete;
    use crate::render::meta::Ending;
    use crate::time::{Granularity, Zone};

    fn plan(measure: Measure, group_by: &[&str]) -> SeriesPlan {
        SeriesPlan {
            metric: "m",
            measure,
            source: Source::Rollup { rollup: Rollup::Hour, set: DimSet::of(group_by.iter().copied()) },
            condition: Condition::always(),
            frame: Frame {
                from: 0,
                to: 3 * 3_600,
                granularity: Granularity::Hour,
                zone: Zone::named("Europe/Berlin").unwrap(),
            },
            group_by: group_by.iter().map(|name| (*name).to_owned()).collect(),
            limit: 1,
            other: false,
        }
    }

    fn at(at: i64, value: f64, dims: &[&str], rank: u32) -> Point {
        let groups = dims.iter().map(|dim| (*dim).to_owned()).collect();
        Point { at, groups, measured: vec![Some(value)], newest: at, rank }
    }

    fn parsed(rendered: &Rendered) -> Value {
        let (head, etag) = (rendered.head.clone(), String::new());
        let entry = Entry { head, etag, computed_ms: 0, oldest_ms: 0, expires_ms: 60_000, is_partial: false };
        serde_json::from_slice(&complete(&entry, &Ending::of(&entry, CacheStatus::Hit, 2_500, 0.25))).unwrap()
    }

    #[test]
    fn gaps_are_filled_with_what_nothing_means() {
        for (measure, nothing) in [(Measure::Events, json!(0)), (Measure::ValueAvg, Value::Null)] {
            let answer = parsed(&render(&plan(measure, &[]), &[at(3_600, 5.0, &[], 1)], &[], LookedUp::default(), 0));
            let values: Vec<_> =
                answer["data"].as_array().unwrap().iter().map(|point| point["value"].clone()).collect();
            assert_eq!((&values[0], &values[2]), (&nothing, &nothing));
            assert_eq!(values[1].as_f64(), Some(5.0));
            assert_eq!(answer["data"][1]["timestamp"], "1970-01-01T02:00:00+01:00");
            assert_eq!(answer["meta"]["newest_bucket"], "1970-01-01T02:00:00+01:00");
        }
    }

    #[test]
    fn groups_beyond_the_limit_are_left_out_and_that_is_said() {
        let points = [at(0, 5.0, &["DE \"x\""], 1), at(0, 2.0, &["FR"], 2)];
        let answer = parsed(&render(&plan(Measure::Events, &["country"]), &points, &[], LookedUp::default(), 0));
        assert_eq!(
            answer["data"],
            json!([{"timestamp": "1970-01-01T01:00:00+01:00", "value": 5, "country": "DE \"x\""}])
        );
        assert_eq!(answer["meta"]["groups"], json!({"by": ["country"], "limit": 1, "truncated": true}));
        let answer = parsed(&render(&plan(Measure::Events, &["value"]), &points[..1], &[], LookedUp::default(), 0));
        assert_eq!(answer["data"][0]["dimension.value"], "DE \"x\"");
        assert_eq!(answer["meta"]["groups"]["truncated"], false);
    }

    #[test]
    fn the_tag_is_of_the_data_and_not_of_the_time() {
        let tag = |value, time| {
            render(&plan(Measure::Events, &[]), &[at(0, value, &[], 1)], &[], LookedUp::default(), time).etag
        };
        assert_eq!(tag(1.0, 0), tag(1.0, 60));
        assert_ne!(tag(1.0, 0), tag(2.0, 0));
    }

    #[test]
    fn estimates_say_so() {
        let meta = |measure| parsed(&render(&plan(measure, &[]), &[], &[], LookedUp::default(), 0))["meta"].clone();
        assert_eq!(meta(Measure::Users)["errors"], json!({"m": {"kind": "standard", "relative": 0.0081}}));
        assert_eq!(meta(Measure::ValueQuantile(crate::metric_definitions::Quantile::P99))["approx"], true);
        let exact = meta(Measure::ValueMin);
        assert_eq!((&exact["approx"], &exact["errors"]), (&json!(false), &json!({})));
        assert_eq!(exact["cache"], json!({"status": "HIT", "age_s": 2, "ttl_s": 57}));
        assert_eq!(exact["elapsed_ms"], 0.25);
    }
}
