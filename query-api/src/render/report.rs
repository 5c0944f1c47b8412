//! The real-time dashboard and the daily report as JSON.

use serde::Serialize;
use serde_json::{Map, Value, json};
use tallyhouse_schema::Rollup;

use super::cut::Cut;
use super::meta::{About, Error, Range};
use super::{assemble, json as piece};
use crate::cache::Rendered;
use crate::plan::newest::Newest;
use crate::plan::{DailyPlan, RealtimePlan};
use crate::sql::{Line, TOP, section};
use crate::time::{Granularity, Grid, Zone};

/// Renders the real-time dashboard.
pub fn realtime(plan: &RealtimePlan, lines: &[Line], newest: Option<Newest>, generated_s: i64) -> Rendered {
    let window = |name: &str, from: i64| {
        let total = figures(find(lines, section::TOTAL, from));
        let by_type = of(lines, section::EVENT_TYPE, from).take(TYPES).map(|line| keyed("event_type", line));
        let by_type: Vec<Value> = by_type.collect();
        json!({
            "time_range": name,
            "from": Zone::utc().rfc3339(from),
            "to": Zone::utc().rfc3339(plan.to),
            "events": total.events,
            "users": total.users,
            "value": total.value,
            "by_event_type": by_type,
        })
    };
    let windows = [window("5min", plan.short_from), window("30min", plan.long_from)];
    let utc = Zone::utc();
    let about = About {
        tables: vec![Rollup::Minute.table()],
        zone: &utc,
        from: plan.long_from,
        to: plan.to,
        newest,
        errors: errors(Rollup::Minute),
        overflowed: Vec::new(),
        generated_s,
    };
    let data = piece::text(&Dashboard { dashboard: "realtime", data: &windows });
    let longer = left_out(lines, plan.long_from, &[(section::EVENT_TYPE, "event_types", TYPES)]);
    let shorter = left_out(lines, plan.short_from, &[(section::EVENT_TYPE, "event_types", TYPES)]);
    assemble(&data, &about, &with_cut(Map::new(), if longer.is_empty() { &shorter } else { &longer }))
}

#[derive(Serialize)]
struct Dashboard<'a> {
    dashboard: &'static str,
    data: &'a [Value],
}

/// Renders a daily report.
pub fn daily(plan: &DailyPlan, lines: &[Line], newest: Option<Newest>, generated_s: i64) -> Rendered {
    let keyed_lines = |part: &str, name: &str, most: usize| -> Vec<Value> {
        of(lines, part, plan.from).take(most).map(|line| keyed(name, line)).collect()
    };
    let report = json!({
        "report": "daily",
        "date": plan.date,
        "timezone": plan.zone.name(),
        "data": {
            "totals": figures(find(lines, section::TOTAL, plan.from)),
            "previous_day": figures(find(lines, section::TOTAL, plan.previous_from)),
            "by_event_type": keyed_lines(section::EVENT_TYPE, "event_type", TYPES),
            "top_countries": keyed_lines(section::COUNTRY, "country", PLACES),
            "top_devices": keyed_lines(section::DEVICE, "device", PLACES),
            "hourly": hours(plan, lines),
        },
    });
    let about = About {
        tables: tables(plan),
        zone: &plan.zone,
        from: plan.from,
        to: plan.to,
        newest,
        errors: errors(if plan.previous_rollup == Rollup::Minute { Rollup::Minute } else { plan.rollup }),
        overflowed: of(lines, section::OVERFLOWED, plan.from).map(|line| line.key.clone()).collect(),
        generated_s,
    };
    let range = |from, to| json!(Range::of(&plan.zone, from, to));
    // To as much of the day as what it is compared with.
    let compared_to = plan.from + plan.previous_to - plan.previous_from;
    let own = Map::from_iter([
        ("complete".to_owned(), plan.complete.into()),
        ("compared_range".to_owned(), range(plan.from, if plan.complete { plan.to } else { compared_to })),
        ("comparison_range".to_owned(), range(plan.previous_from, plan.previous_to)),
    ]);
    let lists = [
        (section::EVENT_TYPE, "event_types", TYPES),
        (section::COUNTRY, "countries", PLACES),
        (section::DEVICE, "devices", PLACES),
    ];
    assemble(&piece::text(&report), &about, &with_cut(own, &left_out(lines, plan.from, &lists)))
}

/// Lines of a list at most.
const TYPES: usize = TOP.0 as usize;
const PLACES: usize = TOP.1 as usize;

/// Which lists have more than is shown of them.
fn left_out(lines: &[Line], at: i64, lists: &[(&str, &'static str, usize)]) -> Vec<Cut> {
    let is_cut = |(part, _, most): &&(&str, &'static str, usize)| of(lines, part, at).count() > *most;
    lists.iter().filter(is_cut).map(|(_, what, most)| Cut::of(what, *most, None)).collect()
}

fn with_cut(mut own: Map<String, Value>, cut: &[Cut]) -> Map<String, Value> {
    if !cut.is_empty() {
        own.insert("cut".to_owned(), json!(cut));
    }
    own
}

fn tables(plan: &DailyPlan) -> Vec<&'static str> {
    let mut tables = vec![plan.rollup.table(), plan.previous_rollup.table()];
    tables.dedup();
    tables
}

/// Users are estimated, wherever they stand.
fn errors(rollup: Rollup) -> Vec<(String, Error)> {
    vec![("users".to_owned(), Error::of_users(rollup.users_precision()))]
}

fn hours(plan: &DailyPlan, lines: &[Line]) -> Vec<Value> {
    let starts = Grid::over(Granularity::Hour, &plan.zone, plan.from, plan.to).starts();
    let hour = |at: i64| with("timestamp", plan.zone.rfc3339(at), &figures(find(lines, section::HOUR, at)));
    starts.into_iter().map(hour).collect()
}

/// What a line says; of no line, that nothing happened.
#[derive(Debug, Default, Serialize)]
struct Figures {
    events: u64,
    users: u64,
    value: f64,
    revenue: f64,
}

fn figures(line: Option<&Line>) -> Figures {
    line.map_or_else(Figures::default, |line| Figures {
        events: line.events,
        users: line.users,
        value: line.value,
        revenue: line.revenue,
    })
}

fn keyed(name: &str, line: &Line) -> Value {
    with(name, line.key.clone(), &figures(Some(line)))
}

fn with(name: &str, key: String, figures: &Figures) -> Value {
    let mut object = json!(figures);
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), key.into());
    }
    object
}

fn of<'a>(lines: &'a [Line], part: &str, at: i64) -> impl Iterator<Item = &'a Line> {
    let part = part.to_owned();
    lines.iter().filter(move |line| line.section == part && line.at == at)
}

fn find<'a>(lines: &'a [Line], part: &str, at: i64) -> Option<&'a Line> {
    of(lines, part, at).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(part: &str, at: i64, key: &str, events: u64) -> Line {
        Line { section: part.into(), at, key: key.into(), events, users: 1, value: 2.5, revenue: 0.0, newest: at + 60 }
    }

    fn parsed(rendered: &Rendered) -> Value {
        serde_json::from_str(&format!("{}}}}}", std::str::from_utf8(&rendered.head).unwrap())).unwrap()
    }

    #[test]
    fn both_windows_are_there_even_when_nothing_happened() {
        let plan = RealtimePlan { short_from: 1_500, long_from: 0, to: 1_860 };
        let lines = [line(section::TOTAL, 0, "", 7), line(section::EVENT_TYPE, 0, "a", 7)];
        let answer = parsed(&realtime(&plan, &lines, Some(Newest::exact(60_250)), 1_800));
        assert_eq!((&answer["data"][0]["time_range"], &answer["data"][0]["events"]), (&json!("5min"), &json!(0)));
        assert_eq!((&answer["data"][1]["time_range"], &answer["data"][1]["events"]), (&json!("30min"), &json!(7)));
        assert_eq!(answer["data"][1]["by_event_type"][0]["event_type"], "a");
        assert_eq!(answer["meta"]["generated_at"], "1970-01-01T00:30:00Z");
        assert_eq!(answer["meta"]["newest_event"], "1970-01-01T00:01:00.250Z");
        assert_eq!(answer["meta"]["errors"]["users"]["kind"], "standard");
    }

    #[test]
    fn a_report_has_every_hour_of_the_day() {
        let plan = DailyPlan {
            date: "1970-01-02".into(),
            zone: Zone::utc(),
            rollup: Rollup::Hour,
            previous_from: 0,
            previous_to: 86_400,
            previous_rollup: Rollup::Hour,
            from: 86_400,
            to: 172_800,
            complete: true,
        };
        let lines = [
            line(section::TOTAL, 86_400, "", 3),
            line(section::TOTAL, 0, "", 9),
            line(section::HOUR, 90_000, "", 3),
            line(section::OVERFLOWED, 86_400, "country", 1),
        ];
        let answer = parsed(&daily(&plan, &lines, Some(Newest::exact(86_460_000)), 200_000));
        assert_eq!(
            (&answer["data"]["totals"]["events"], &answer["data"]["previous_day"]["events"]),
            (&json!(3), &json!(9))
        );
        assert_eq!(answer["data"]["hourly"].as_array().unwrap().len(), 24);
        assert_eq!(answer["data"]["hourly"][1]["events"], 3);
        assert_eq!(answer["meta"]["complete"], true);
        assert_eq!(answer["meta"]["overflowed"], json!(["country"]));
        assert_eq!(answer["meta"]["newest_event"], "1970-01-02T00:01:00Z");
    }
}
