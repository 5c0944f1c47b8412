//! A query that is answered through the cache: its plan, its name in the cache, and how to compute it again for a refresh.
//!
//! ```text
//! a range in the past    named by its plan
//! the last 24 hours      named by its plan without times, and "the last 24 hours"
//! since this morning     named by its plan without times, and when it begins
//! ```
//!
//! The plan of a window that reaches until now changes every minute. Named by it, every answer of a dashboard would expire at the
//! start of a minute. Named as above, an answer lives for its own time, jitter included; `meta.range` says which range it is about.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tallyhouse_control::LiveCatalogue;
use tokio::time::Instant;

use crate::asked::Asked;
use crate::authorize::Scope;
use crate::cache::cache_request::{CacheRequest, ComputeFn, FallbackKeys};
use crate::clock::Clock;
use crate::coverage;
use crate::execute::{Moment, Recall, Sources};
use crate::plan::{Plan, Unplannable, plan};
use crate::render::json;
use crate::request::{Query, Window};
use crate::time::minute_floor;

/// Names of numbers in a plan that are instants, and may follow the present.
const INSTANTS: [&str; 9] =
    ["from", "to", "until", "over", "at", "previous_from", "previous_to", "short_from", "long_from"];

/// A window that ended so long ago, in seconds, is one of the past, and no other stands in for it.
const PAST: i64 = 6 * 3_600;

/// A query and what computing its answer needs.
pub struct CachedQuery {
    /// Where it is computed from.
    pub sources: Arc<Sources>,
    /// What is rolled up. Looked at for each plan: a refresh, long after, plans by what is declared then.
    pub catalogue: LiveCatalogue,
    /// Tells the present at each later computation.
    pub clock: Clock,
    /// The project, and what the key may do.
    pub scope: Scope,
    /// The question, not planned yet: a plan is of one moment.
    pub query: Query,
    /// The same as it came.
    pub asked: Option<Arc<Asked>>,
    /// What may be remembered of it.
    pub recall: Recall,
}

impl CachedQuery {
    /// The request to the cache at an instant, of somebody who begins to wait now.
    pub fn cache_request(self: &Arc<Self>, now_ms: i64) -> Result<CacheRequest, Unplannable> {
        let catalogue = self.catalogue.of(self.scope.project());
        let plan = Arc::new(plan(&self.query, &catalogue, now_ms)?);
        let declared = coverage::declared(&plan, &catalogue);
        let Names { name, fallback } = Names::of(self.scope.project(), &self.query, &plan, &declared, now_ms);
        let later = Arc::clone(self);
        let within = self.sources.store.deadline(plan.class());
        Ok(CacheRequest {
            scope: self.scope.clone(),
            within,
            deadline: Instant::now() + within,
            compute: self.compute_fn(&plan),
            plan,
            name,
            fallback,
            renew: Arc::new(move |now_ms| later.cache_request(now_ms).ok()),
            asked: self.asked.clone(),
        })
    }

    /// Computes the answer, now and when it is to be refreshed.
    fn compute_fn(self: &Arc<Self>, plan: &Arc<Plan>) -> ComputeFn {
        let (me, plan) = (Arc::clone(self), Arc::clone(plan));
        Arc::new(move |redis_time, deadline| {
            let moment = Moment { now_ms: (me.clock)(), recall: me.recall, class: plan.class(), deadline };
            let execution = me.sources.execution(&me.scope, moment, redis_time);
            let plan = Arc::clone(&plan);
            Box::pin(async move { execution.run(&plan).await })
        })
    }
}

/// What answers to a question are found by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    name: Arc<str>,
    fallback: FallbackKeys,
}

impl Names {
    /// `declared` are the versions of the declarations that the plan relies on: another one may have begun to count, or stopped.
    fn of(project: &str, query: &Query, plan: &Plan, declared: &str, now_ms: i64) -> Self {
        let mut exact = json::text(plan);
        exact.push_str(declared);
        let (timeless, first) = without_instants(&exact);
        let digest = |kind: &str, what: &str, numbers: [i64; 2]| {
            let mut digest = Sha256::new();
            for part in [project, kind, what] {
                digest.update((part.len() as u64).to_le_bytes());
                digest.update(part);
            }
            numbers.iter().for_each(|number| digest.update(number.to_le_bytes()));
            digest.finalize().into()
        };
        // Of the question: where its plan reads depends on how the range lies.
        let asked = format!("{:?}{declared}", timeless_query(query));
        let span = |length: i64, ago: i64| {
            let minutes = length.div_euclid(60);
            [minutes, minutes - 1].map(|minutes| digest("span", &asked, [minutes, ago.div_euclid(60)]))
        };
        let now = minute_floor(now_ms);
        let since = first.unwrap_or_default();
        let (name, [span, shorter], start) = match window(query) {
            Some(Window::Last { seconds }) => {
                (format!("{timeless} last {seconds}"), span(seconds, 0), digest("start", &asked, [since, 0]))
            }
            Some(Window::Open { from, .. }) => {
                (format!("{timeless} since {since}"), span(now - from, 0), digest("start", &asked, [since, 0]))
            }
            Some(Window::Closed { from, to }) if now - to < PAST => {
                let exactly = digest("exact", &exact, [0, 0]);
                (exact, span(to - from, now - to), exactly)
            }
            Some(Window::Closed { .. }) | None => {
                let exactly = digest("exact", &exact, [0, 0]);
                (exact, [exactly; 2], exactly)
            }
        };
        Self { name: name.into(), fallback: FallbackKeys { span, shorter, start } }
    }
}

fn window(query: &Query) -> Option<Window> {
    match query {
        Query::Metric(query) => Some(query.window),
        Query::Anomalies(query) => Some(query.series.window()),
        Query::Structured(query) => Some(query.window),
        Query::EventTypes(query) => Some(query.window),
        Query::Funnel(funnel) => Some(funnel.range),
        Query::Retention(retention) => Some(retention.range),
        Query::Realtime => Some(Window::Last { seconds: 1_800 }),
        Query::Daily(_) => None,
    }
}

/// The question without its range.
fn timeless_query(query: &Query) -> Query {
    const NONE: Window = Window::Last { seconds: 0 };
    let mut query = query.clone();
    match &mut query {
        Query::Metric(query) => query.window = NONE,
        Query::Anomalies(anomalies) => anomalies.series = anomalies.series.clone().over(NONE),
        Query::Structured(query) => query.window = NONE,
        Query::EventTypes(query) => query.window = NONE,
        Query::Funnel(funnel) => funnel.range = NONE,
        Query::Retention(retention) => retention.range = NONE,
        Query::Realtime | Query::Daily(_) => {}
    }
    query
}

/// A plan's JSON without its instants, and the first one after which a range begins. Within a text of JSON every quote is escaped, so
/// that what looks like a name is one.
pub(crate) fn without_instants(json: &str) -> (String, Option<i64>) {
    let (mut text, mut first, mut is_instant, mut is_start) = (String::with_capacity(json.len()), None, false, false);
    for (place, piece) in json.split("\":").enumerate() {
        if place > 0 {
            text.push_str("\":");
        }
        let rest = if is_instant { piece.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit()) } else { piece };
        if is_start && first.is_none() {
            first = piece.strip_suffix(rest).and_then(|number| number.parse().ok());
        }
        text.push_str(rest);
        let name = piece.rsplit_once('"').map_or("", |(_, name)| name);
        (is_instant, is_start) = (INSTANTS.contains(&name), name == "from");
    }
    (text, first)
}

#[cfg(test)]
mod tests {
    use tallyhouse_control::{Control, FixedKeys};
    use tallyhouse_schema::Catalogue;

    use super::*;
    use crate::registry::MetricRegistry;
    use crate::request::query::METRIC_PARAMS;
    use crate::request::{MetricQuery, Params, StructuredQuery, body};

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;
    const MINUTE_MS: i64 = 60_000;

    fn get(raw: &str, now_ms: i64) -> Names {
        let params = Params::parse(Some(raw), METRIC_PARAMS).unwrap();
        let query = Query::Metric(MetricQuery::parse("events", &params, &Vec::new, now_ms).unwrap());
        named(&query, now_ms)
    }

    fn post(range: &str, now_ms: i64) -> Names {
        asked(&format!(r#"{{"metrics":["events"],"date_range":{range},"dimensions":["time:hour","country"]}}"#), now_ms)
    }

    fn asked(document: &str, now_ms: i64) -> Names {
        let (document, registry) =
            (body::parse(document.as_bytes()).unwrap(), MetricRegistry::new(Control::fixed(FixedKeys::default())));
        let query = StructuredQuery::parse(
            &body::JsonPart::root(&document),
            &|name: &str| registry.find("p", name),
            &Vec::new,
            now_ms,
        )
        .unwrap();
        named(&Query::Structured(query), now_ms)
    }

    fn named(query: &Query, now_ms: i64) -> Names {
        let plan = plan(query, &Catalogue::built_in().unwrap(), now_ms).unwrap();
        Names::of("p", query, &plan, "", now_ms)
    }

    #[test]
    fn a_window_that_slides_has_one_name_and_others_have_others() {
        for (one, other) in
            [("", ""), ("granularity=minute", "granularity=minute"), ("granularity=hour", "granularity=hour")]
        {
            assert_eq!(get(one, NOW).name, get(other, NOW + 17 * MINUTE_MS).name, "{one}");
        }
        assert_eq!(post(r#""24h""#, NOW).name, post(r#""24h""#, NOW + 90 * MINUTE_MS).name);
        let names = ["", "granularity=hour", "groupBy=country", "filter=country:DE", "timezone=Asia/Kolkata"];
        let names = names.map(|raw| get(raw, NOW).name);
        assert!(names.iter().enumerate().all(|(place, name)| !names.iter().skip(place + 1).any(|other| other == name)));
        assert_ne!(post(r#""24h""#, NOW).name, post(r#""25h""#, NOW).name);
        // One that grows is named by its beginning, as it is read.
        let since = |ms: i64, now_ms| get(&format!("granularity=hour&startTime={ms}"), now_ms).name;
        assert_eq!(since(NOW - 600 * MINUTE_MS, NOW), since(NOW - 599 * MINUTE_MS, NOW + MINUTE_MS));
        assert_ne!(since(NOW - 600 * MINUTE_MS, NOW), since(NOW - 700 * MINUTE_MS, NOW));
        // The past is named as it is.
        let past = |to: i64| get(&format!("startTime={}&endTime={to}", to - 600 * MINUTE_MS), NOW).name;
        assert_ne!(past(NOW - 500 * MINUTE_MS), past(NOW - 501 * MINUTE_MS));
    }

    #[test]
    fn absolute_times_that_move_with_the_present_are_the_same_question() {
        let day = 1_440 * MINUTE_MS;
        let absolute = |now_ms: i64| {
            get(&format!("granularity=hour&startTime={}&endTime={now_ms}", now_ms - day), now_ms).fallback
        };
        let (first, later) = (absolute(NOW), absolute(NOW + 7 * MINUTE_MS + 31_234));
        assert!(first.span == later.span || first.span == later.shorter, "{first:?} {later:?}");
        assert_eq!(first.span, get("granularity=hour", NOW).fallback.span, "it is the last 24 hours");
        let instant = |ms| jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
        let pair =
            |now_ms: i64| post(&format!(r#"["{}","{}"]"#, instant(now_ms - day), instant(now_ms)), now_ms).fallback;
        assert_eq!(pair(NOW).span, pair(NOW + 5 * MINUTE_MS).span);
        // It ends an hour ago, always.
        let delayed = |now_ms: i64| {
            let to = now_ms - 60 * MINUTE_MS;
            get(&format!("granularity=minute&startTime={}&endTime={to}", to - day / 4), now_ms).fallback
        };
        assert_eq!(delayed(NOW).span, delayed(NOW + 3 * MINUTE_MS).span);
        // "Today so far" grows; it is found by its beginning.
        let today = |now_ms: i64| {
            get(&format!("granularity=hour&startTime={}&endTime={now_ms}", NOW - 700 * MINUTE_MS), now_ms).fallback
        };
        assert_eq!(today(NOW).start, today(NOW + 20 * MINUTE_MS).start);
        // Others are not the same, nor is a day of last week the day after it.
        assert_ne!(first.span, get("granularity=hour&groupBy=country", NOW).fallback.span);
        let week = |days: i64| {
            let to = NOW - days * day;
            get(&format!("granularity=hour&startTime={}&endTime={to}", to - day), NOW).fallback
        };
        assert!(!week(6).all().iter().any(|digest| week(7).all().contains(digest)));
    }

    #[test]
    fn a_window_that_slides_is_found_wherever_it_lies_and_when_a_minute_has_turned() {
        let instant = |ms| jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
        let turn = (NOW / MINUTE_MS + 1) * MINUTE_MS;
        let later = (0..90).map(|minutes| (NOW + minutes * MINUTE_MS, NOW + minutes * MINUTE_MS));
        let turned = [(turn - 2_000, turn + 500), (turn - 30_000, turn + 500), (turn, turn + 1)];
        let times: Vec<(i64, i64)> = later.chain(turned).collect();
        for fields in [
            r#""dimensions":["time:15m","event_type"],"include":{"totals":true,"comparisons":"previous_period"}"#,
            r#""dimensions":["country"]"#,
            r#""raw":true,"dimensions":["plan"],"filters":[["is","event_type",["purchase"]]]"#,
        ] {
            for length in [60, 1_440] {
                let pair = |to: i64, now_ms: i64| {
                    let range = format!(r#"["{}","{}"]"#, instant(to - length * MINUTE_MS), instant(to));
                    asked(&format!(r#"{{"metrics":["events","users"],"date_range":{range},{fields}}}"#), now_ms)
                        .fallback
                };
                let known = pair(NOW, NOW);
                for (sent, now_ms) in &times {
                    let late = pair(*sent, *now_ms);
                    let is_found = late.all().iter().any(|digest| known.own().contains(digest));
                    assert!(is_found, "{fields} {length} {sent} {now_ms}");
                }
            }
        }
    }

    #[test]
    fn an_answer_is_not_found_under_another_declaration() {
        let query = Query::Realtime;
        let plan = plan(&query, &Catalogue::default(), NOW).unwrap();
        let named = |declared: &str| Names::of("p", &query, &plan, declared, NOW);
        let (one, two) = (named(" purchase@2"), named(" purchase@3"));
        assert!(one.name != two.name && one.fallback.all().iter().all(|key| !two.fallback.own().contains(key)));
        assert_eq!(one, named(" purchase@2"));
    }

    #[test]
    fn only_instants_are_left_out_of_a_plan() {
        let (text, first) = without_instants(r#"{"a":{"from":-12,"to":34},"text":"\"to\":5","from":7,"too":8}"#);
        assert_eq!((text.as_str(), first), (r#"{"a":{"from":,"to":},"text":"\"to\":5","from":,"too":8}"#, Some(-12)));
    }
}
