//! Suggests what would be answered instead of a refused question. Each suggestion is planned first, so none would be refused.

use super::Unplannable;
use crate::request::event_types::EventTypesQuery;
use crate::request::{DailyQuery, Query, SeriesQuery, StructuredQuery, Window};
use crate::time::{DAY, Granularity, Zone};

/// A suggestion is good for as long as this, in milliseconds: what is kept moves on while the caller reads.
const GOOD_FOR_MS: i64 = 3_600_000;

/// The same refusal with a suggestion that works, if there is one. `is_answered` plans a query at an instant in milliseconds.
pub(super) fn instead(
    refusal: Unplannable,
    query: &Query,
    now_ms: i64,
    is_answered: impl Fn(&Query, i64) -> bool,
) -> Unplannable {
    let works = |query: &Query| is_answered(query, now_ms) && is_answered(query, now_ms + GOOD_FOR_MS);
    match refusal {
        Unplannable::TooFineForItsAge { kept_days, .. } => {
            Unplannable::TooFineForItsAge { kept_days, earliest: earliest(query, now_ms, works) }
        }
        Unplannable::Expired { kept_days, .. } => {
            Unplannable::Expired { kept_days, earliest: earliest(query, now_ms, works) }
        }
        Unplannable::TooManyPoints { granularity, limit, fits: Some(fits) } => {
            let coarser = Granularity::FINEST_FIRST.into_iter().filter(|coarser| *coarser >= fits);
            let fits =
                coarser.into_iter().find(|coarser| in_buckets_of(query, *coarser).is_some_and(|query| works(&query)));
            Unplannable::TooManyPoints { granularity, limit, fits }
        }
        other => other,
    }
}

/// The first start of a day, not before the one that was asked for, from which on the question is answered.
fn earliest(query: &Query, now_ms: i64, works: impl Fn(&Query) -> bool) -> Option<String> {
    let zone = zone(query)?;
    let now = now_ms.div_euclid(1_000);
    let start = |days_ago: i64| zone.day_start(zone.date(now - days_ago * DAY));
    let is_good = |days_ago: i64| since(query, start(days_ago), now).is_some_and(|query| works(&query));
    // What is kept is kept from some day on, so the days that work are the last ones.
    let (mut good, mut bad) = (0, (now - asked(query, now_ms)?).div_euclid(DAY) + 2);
    while bad > 1 && start(bad - 1) < asked(query, now_ms)? {
        bad -= 1;
    }
    if !is_good(good) {
        return None;
    }
    while good + 1 < bad {
        let middle = good.midpoint(bad);
        if is_good(middle) { good = middle } else { bad = middle }
    }
    Some(zone.rfc3339(start(good)))
}

/// The start that was asked for.
fn asked(query: &Query, now_ms: i64) -> Option<i64> {
    match query {
        Query::Metric(query) => Some(query.window.bounds(now_ms).0),
        Query::Daily(query) => Some(query.zone.day_start(query.date)),
        Query::Structured(query) => Some(query.window.bounds(now_ms).0),
        Query::EventTypes(query) => Some(query.window.bounds(now_ms).0),
        Query::Anomalies(query) => Some(query.series.window().bounds(now_ms).0),
        Query::Realtime | Query::Funnel(_) | Query::Retention(_) => None,
    }
}

fn zone(query: &Query) -> Option<&Zone> {
    match query {
        Query::Metric(query) => Some(&query.zone),
        Query::Daily(query) => Some(&query.zone),
        Query::Structured(query) => Some(&query.shape.zone),
        Query::EventTypes(query) => Some(&query.zone),
        Query::Anomalies(query) => Some(match &query.series {
            SeriesQuery::BuiltIn(query) => &query.zone,
            SeriesQuery::Registered(query) => &query.shape.zone,
        }),
        Query::Realtime | Query::Funnel(_) | Query::Retention(_) => None,
    }
}

/// The question with another start. Its end stays; one that would come before it is moved along, as far as now.
fn since(query: &Query, start: i64, now: i64) -> Option<Query> {
    let window = |window: Window| match window {
        Window::Closed { to, .. } if start < to => Window::Closed { from: start, to },
        Window::Closed { from, to } if start + (to - from) <= now => {
            Window::Closed { from: start, to: start + (to - from) }
        }
        Window::Closed { .. } | Window::Open { .. } | Window::Last { .. } => Window::Open { from: start, until: None },
    };
    Some(match query.clone() {
        Query::Metric(query) => SeriesQuery::BuiltIn(query.clone()).over(window(query.window)).into(),
        Query::Structured(query) => Query::Structured(StructuredQuery { window: window(query.window), ..query }),
        Query::EventTypes(query) => Query::EventTypes(EventTypesQuery { window: window(query.window), ..query }),
        Query::Anomalies(query) => {
            let series = query.series.clone().over(window(query.series.window()));
            Query::Anomalies(crate::request::anomalies::AnomalyQuery { series, ..query })
        }
        Query::Daily(query) => Query::Daily(DailyQuery { date: query.zone.date(start), ..query }),
        Query::Realtime | Query::Funnel(_) | Query::Retention(_) => return None,
    })
}

fn in_buckets_of(query: &Query, granularity: Granularity) -> Option<Query> {
    match query.clone() {
        Query::Metric(query) => Some(SeriesQuery::BuiltIn(query).in_buckets_of(granularity).into()),
        Query::Structured(query) => Some(SeriesQuery::Registered(Box::new(query)).in_buckets_of(granularity).into()),
        Query::Anomalies(mut query) => {
            query.series = query.series.in_buckets_of(granularity);
            Some(Query::Anomalies(query))
        }
        Query::Daily(_) | Query::Realtime | Query::Funnel(_) | Query::Retention(_) | Query::EventTypes(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    use tallyhouse_schema::Catalogue;

    use super::*;
    use crate::metric_definitions::{Definition, Metric};
    use crate::plan::plan;
    use crate::request::anomalies::AnomalyQuery;
    use crate::request::body::{self, JsonPart};
    use crate::request::query::METRIC_PARAMS;
    use crate::request::{MetricQuery, Params};

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn series(text: &str, now_ms: i64) -> Option<MetricQuery> {
        let params = Params::parse(Some(text), METRIC_PARAMS).unwrap();
        MetricQuery::parse("events", &params, &Vec::new, now_ms).ok()
    }

    fn document(text: &str, now_ms: i64) -> Option<Query> {
        let value = body::parse(text.as_bytes()).unwrap();
        let metric = |name: &str| Metric::named(name).map(Definition::built_in).map(Arc::new);
        StructuredQuery::parse(&JsonPart::root(&value), &metric, &Vec::new, now_ms).ok().map(Query::Structured)
    }

    /// A question with a start and an end, either of which may be left out, as it is put.
    #[derive(Clone, Copy)]
    struct Put<'a> {
        kind: u8,
        zone: &'a str,
        width: &'a str,
    }

    impl Put<'_> {
        fn query(self, start: &str, end: &str, now_ms: i64) -> Option<Query> {
            let Self { kind, zone, width } = self;
            let ends = if end.is_empty() { String::new() } else { format!("&endTime={end}") };
            let text = format!("granularity={width}&timezone={zone}&startTime={start}{ends}").replace('+', "%2B");
            let time = if width == "hour" { "\"time\"".to_owned() } else { format!("\"time:{width}\"") };
            let dimensions = if kind == 3 { String::new() } else { time };
            match kind {
                0 => series(&text, now_ms).map(Query::Metric),
                1 => {
                    let params = Params::parse(Some(&text), METRIC_PARAMS).unwrap();
                    let asked = SeriesQuery::BuiltIn(series(&text, now_ms)?);
                    AnomalyQuery::of(asked, &params, now_ms).ok().map(Query::Anomalies)
                }
                _ if end.is_empty() => None,
                _ => document(
                    &format!(
                        r#"{{"metrics":["events"],"timezone":"{zone}","date_range":["{start}","{end}"],
                            "dimensions":[{dimensions}],"include":{{"comparisons":"previous_period"}}}}"#
                    ),
                    now_ms,
                ),
            }
        }
    }

    #[test]
    fn every_suggestion_is_accepted_when_it_is_asked() {
        let mut random = StdRng::seed_from_u64(7);
        let zones = Zone::names();
        let catalogue = Catalogue::default();
        let (mut starts, mut widths, mut nothing) = (0, 0, Vec::new());
        for _ in 0..1_000 {
            let zone = zones.choose(&mut random).unwrap();
            let width = Granularity::FINEST_FIRST.choose(&mut random).unwrap().name();
            let put = Put { kind: random.random_range(0..4), zone, width };
            let unit = *[60, 900, DAY].choose(&mut random).unwrap();
            let from = NOW / 60_000 * 60 - random.random_range(80 * DAY..7 * 366 * DAY) / unit * unit;
            let to = from + random.random_range(1..=(300 * DAY / unit)) * unit;
            let show = |at: i64| jiff::Timestamp::from_second(at).unwrap().to_string();
            let end = if random.random_bool(0.7) && to < NOW / 1_000 { show(to) } else { String::new() };
            let Some(query) = put.query(&show(from), &end, NOW) else { continue };
            // A minute later, as whoever reads the refusal asks again.
            let later = NOW + 60_000;
            match plan(&query, &catalogue, NOW) {
                Err(
                    Unplannable::TooFineForItsAge { earliest: Some(start), .. }
                    | Unplannable::Expired { earliest: Some(start), .. },
                ) => {
                    let begin = start.parse::<jiff::Timestamp>().unwrap().as_second();
                    // An end that is not after it any more moves along, as far as now.
                    let moved = begin + (to - from);
                    let end = match &end {
                        end if end.is_empty() || begin < to => end.clone(),
                        _ if moved < NOW / 1_000 => show(moved),
                        _ if put.kind > 1 => show(later / 1_000),
                        _ => String::new(),
                    };
                    let again = put.query(&start, &end, later).unwrap_or_else(|| panic!("{query:?}: {start}"));
                    let answer = plan(&again, &catalogue, later);
                    assert!(answer.is_ok(), "{query:?}: {start} {answer:?}");
                    starts += 1;
                }
                Err(Unplannable::TooManyPoints { fits: Some(fits), .. }) => {
                    let again = in_buckets_of(&query, fits).unwrap();
                    assert!(plan(&again, &catalogue, later).is_ok(), "{query:?}: {fits:?}");
                    widths += 1;
                }
                // On no whole quarter and too long for minutes: only another range would do.
                Err(Unplannable::TooManyPoints { fits: None, .. }) => {}
                Err(refusal) => nothing.push(format!("{query:?}: {refusal}")),
                Ok(_) => {}
            }
        }
        assert!(starts > 100 && widths > 2, "{starts} {widths}");
        assert_eq!(nothing, Vec::<String>::new());
    }

    #[test]
    fn the_suggestion_is_the_first_day_that_works() {
        let refusal = |text: &str| {
            let query = Query::Metric(series(text, NOW).unwrap());
            plan(&query, &Catalogue::default(), NOW).unwrap_err().to_string()
        };
        for (text, expected) in [
            ("granularity=minute&startTime=2026-08-01&endTime=2026-08-02", "a start of 2026-08-23T00:00:00Z or later"),
            ("granularity=day&startTime=2020-08-01&endTime=2020-08-02", "a start of 2021-11-21T00:00:00Z or later"),
            (
                "granularity=month&startTime=2020-08-01&endTime=2021-08-01&timezone=Asia/Kolkata",
                "a start of 2021-11-21T00:00:00+05:30 or later",
            ),
        ] {
            assert!(refusal(text).contains(expected), "{text}: {}", refusal(text));
        }
    }
}
