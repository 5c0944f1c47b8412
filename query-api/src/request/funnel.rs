//! A funnel: how many people take one step after another, within a time window from the first to the last.
//!
//! ```json
//! {"kind": "funnel", "date_range": "30d", "timezone": "Europe/Berlin", "window": "1d", "order": "ordered",
//!  "steps": [{"event_type": "view"}, {"event_type": "purchase", "name": "bought", "filters": [["is", "device", ["web"]]]}],
//!  "breakdown": "country", "filters": [["is_not", "country", [""]]]}
//! ```
//!
//! * All events of an attempt lie within the range, and the last at most `window` after the first (inclusive).
//! * **`ordered`**: other events may happen between two steps. **`strict_order`**: each step directly follows the one before
//!   among all events of the person that pass `filters`, of whatever type.
//! * One event is one step of an attempt, also when it matches several.
//! * **Ties**: events of the same millisecond are ordered by the first step that each matches, those that match none
//!   last. So steps that were sent at once count as in order.
//! * **A person counts once**, with the best attempt: the one that gets furthest; of several such, the one that gets there
//!   first; of several that get there with the same event, the one that began last. A step's users are those whose best
//!   attempt has it.
//! * **Time from the previous step**: from the latest event of the previous step that leads to the first event with which
//!   the person reaches the step; the median over all who do.
//! * **Breakdown**: a person is in the row of the value that the first event of the best attempt has (of equal events of one
//!   millisecond the first value in order). Rows therefore add up to the total. The ten biggest have a row, the others share
//!   `__other__`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tallyhouse_schema::dimension::is_valid_name;

use super::body::JsonPart;
use super::filter_tree::{self, Tests, event_type_of};
use super::query::event_types_of;
use super::{BadRequest, Window, range, values};
use crate::condition::{Condition, Field};
use crate::time::{DAY, MINUTE, Zone};

/// Steps of a funnel: fewer show nothing, more are read by nobody.
pub const STEPS: std::ops::RangeInclusive<usize> = 2..=10;

/// The shortest and the longest `window`, in seconds.
const WINDOW: std::ops::RangeInclusive<i64> = MINUTE..=90 * DAY;

/// The longest name of a step, in characters.
const MAX_NAME_CHARS: usize = 100;

const FIELDS: &[&str] = &["kind", "steps", "date_range", "timezone", "window", "order", "breakdown", "filters"];

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Funnel {
    /// The steps, in order.
    pub steps: Vec<Step>,
    pub range: Window,
    /// Whose clocks and calendar the range follows.
    pub zone: Zone,
    /// The longest time from the first step to the last, in seconds.
    pub within_s: i64,
    /// What may happen between two steps.
    pub order: Order,
    /// What the first step's event is told apart by.
    pub breakdown: Option<Field>,
    /// What must hold of every event.
    pub condition: Condition,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it is shown as: the event type, unless it was named.
    pub name: String,
    /// Which events are this step.
    pub condition: Condition,
}

/// What may happen between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Anything.
    Ordered,
    /// No other event may come in between.
    StrictOrder,
}

impl Order {
    const NAMES: [(&'static str, Self); 2] = [("ordered", Self::Ordered), ("strict_order", Self::StrictOrder)];
}

impl Funnel {
    /// Reads a document whose `kind` is `funnel`; `now_ms` is the present.
    pub fn parse(root: &JsonPart<'_>, now_ms: i64) -> Result<Self, BadRequest> {
        let fields = root.fields(FIELDS)?;
        let mut tests = Tests::of_document();
        let steps = steps(&fields.required("steps")?, &mut tests)?;
        let zone = values::zone_field(fields.get("timezone").as_ref())?;
        Ok(Self {
            steps,
            range: range::parse(&fields.required("date_range")?, &zone, now_ms)?,
            zone,
            within_s: within(&fields.required("window")?)?,
            order: fields.get("order").map_or(Ok(Order::Ordered), |part| order(&part))?,
            breakdown: fields.get("breakdown").map(|part| breakdown(&part, &mut tests)).transpose()?,
            condition: filter_tree::parse_any(fields.get("filters").as_ref(), &mut tests)?,
        })
    }

    /// Every event type that the caller named.
    pub fn event_types(&self) -> BTreeSet<String> {
        event_types_of(self.conditions())
    }

    /// Numbers among the values of filters that are not written as they are counted; and how they are.
    pub fn numbers_as_texts(&self) -> BTreeMap<String, String> {
        self.conditions().flat_map(Condition::numbers_as_texts).collect()
    }

    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.steps.iter().map(|step| &step.condition).chain([&self.condition])
    }
}

fn steps(part: &JsonPart<'_>, tests: &mut Tests) -> Result<Vec<Step>, BadRequest> {
    let items = part.items(*STEPS.end())?;
    if items.len() < *STEPS.start() {
        return Err(part.bad(format!("a funnel has {} to {} steps", STEPS.start(), STEPS.end())));
    }
    items.iter().map(|part| step(part, tests)).collect()
}

fn step(part: &JsonPart<'_>, tests: &mut Tests) -> Result<Step, BadRequest> {
    let fields = part.fields(&["event_type", "filters", "name"])?;
    let event_type = fields.required("event_type")?;
    let of_its_type = event_type_of(&event_type, tests)?;
    let name = fields.get("name").map_or_else(|| event_type.text().map(str::to_owned), |part| name(&part))?;
    Ok(Step { name, condition: of_its_type.and(filter_tree::parse_any(fields.get("filters").as_ref(), tests)?) })
}

fn name(part: &JsonPart<'_>) -> Result<String, BadRequest> {
    let name = part.text()?;
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS {
        return Err(part.not(&format!("a name of 1 to {MAX_NAME_CHARS} characters")));
    }
    Ok(name.to_owned())
}

fn within(part: &JsonPart<'_>) -> Result<i64, BadRequest> {
    let text = part.text()?;
    values::seconds(text)
        .filter(|seconds| WINDOW.contains(seconds))
        .ok_or_else(|| part.not("a time from 1m to 90d: a number of minutes, hours or days (`30m`, `12h`, `7d`)"))
}

fn order(part: &JsonPart<'_>) -> Result<Order, BadRequest> {
    let text = part.text()?;
    let found = Order::NAMES.into_iter().find(|(name, _)| *name == text).map(|(_, order)| order);
    found.ok_or_else(|| part.unknown("order", Order::NAMES.map(|(name, _)| name)))
}

fn breakdown(part: &JsonPart<'_>, tests: &mut Tests) -> Result<Field, BadRequest> {
    tests.count(part)?;
    let name = part.text()?;
    if is_valid_name(name) && !values::is_time(name) {
        return Ok(Field::named(name));
    }
    Err(part.not("a dimension, such as `country`, or a property"))
}

#[cfg(test)]
pub(crate) fn parsed(text: &str, now_ms: i64) -> Result<Funnel, BadRequest> {
    Funnel::parse(&JsonPart::root(&super::body::parse(text.as_bytes())?), now_ms)
}

/// A funnel of two steps, one field of which is written so.
#[cfg(test)]
pub(crate) fn with(field: &str, value: &str, now_ms: i64) -> Result<Funnel, BadRequest> {
    let mut fields = BTreeMap::from([
        ("kind", r#""funnel""#),
        ("steps", r#"[{"event_type":"a"},{"event_type":"b"}]"#),
        ("date_range", r#""7d""#),
        ("window", r#""1d""#),
    ]);
    fields.insert(field, value);
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    parsed(&format!("{{{}}}", fields.join(",")), now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    #[test]
    fn a_whole_funnel_is_read() {
        let funnel = parsed(
            r#"{"kind":"funnel","steps":[{"event_type":"view","name":"saw"},
                {"event_type":"buy","filters":[["is","device",["web"]]]}],
                "date_range":["2026-11-01","2026-11-02"],"timezone":"Europe/Berlin","window":"90m",
                "order":"strict_order","breakdown":"country","filters":[["is_not","country",[""]]]}"#,
            NOW,
        )
        .unwrap();
        let names: Vec<_> = funnel.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!((names, funnel.within_s, funnel.order), (vec!["saw", "buy"], 5_400, Order::StrictOrder));
        assert!(with("breakdown", r#""timezone""#, NOW).is_ok());
        let (from, to) = funnel.range.bounds(NOW);
        assert_eq!((to - from, &funnel.breakdown), (2 * DAY, &Some(Field::named("country"))));
    }

    #[test]
    fn errors_say_where_and_what_would_do() {
        let long = format!("\"{}\"", "x".repeat(101));
        for (field, value, expected) in [
            ("steps", r#"[{"event_type":"a"}]"#, "`steps`: a funnel has 2 to 10 steps"),
            ("steps", "[1,2,3,4,5,6,7,8,9,10,11]", "`steps`: 11 items are too many"),
            ("steps", r#"[{"event_type":"a"},{"event":"b"}]"#, "`steps[1].event`: there is no such field"),
            ("steps", r#"[{"event_type":"a"},{}]"#, "`steps[1].event_type`: it must be given"),
            ("steps", r#"[{"event_type":""},{}]"#, "`steps[0].event_type`: `` is not an event type"),
            ("steps", r#"[{"event_type":"a","name":""},{}]"#, "`steps[0].name`: `` is not a name"),
            ("steps", r#"[{"event_type":"a","filters":[["is"]]},{}]"#, "`steps[0].filters[0]`: `is` is written"),
            ("window", r#""59s""#, "`window`: `59s` is not a time from 1m to 90d"),
            ("window", r#""0m""#, "`window`: `0m` is not a time"),
            ("window", r#""91d""#, "is not a time"),
            ("window", r#""99999999999999999999d""#, "is not a time"),
            ("window", r#""9223372036854775807d""#, "is not a time"),
            ("window", "86400", "`window`: `86400` is not a text"),
            ("order", r#""strict""#, "`order`: there is no order `strict`; known: ordered, strict_order"),
            ("breakdown", r#""a' OR 1=1""#, "`breakdown`: `a' OR 1=1` is not a dimension"),
            ("breakdown", r#""time:day""#, "is not a dimension"),
            ("breakdown", &long, "is not a dimension"),
            ("date_range", r#"["2024-01-01","2026-01-01"]"#, "`date_range`: it spans"),
            ("timezone", r#""Mars""#, "`timezone`: `Mars` is not an IANA time zone"),
            ("windw", "1", "`windw`: there is no such field"),
            ("window", "null", "`window`: it must be given"),
        ] {
            let error = with(field, value, NOW).unwrap_err().to_string();
            assert!(error.contains(expected), "{field} {value}: {error}");
        }
    }

    #[test]
    fn tests_of_all_steps_filters_and_the_breakdown_are_counted_together() {
        let filters = |many: usize| vec![r#"["is","a",["x"]]"#; many].join(",");
        // Ten of types, a breakdown, and all others.
        let asked = |of_a_step: usize, of_all: usize| {
            let steps = vec![format!(r#"{{"event_type":"a","filters":[{}]}}"#, filters(of_a_step)); 10].join(",");
            let text = format!(
                r#"{{"kind":"funnel","steps":[{steps}],"date_range":"7d","window":"1d","breakdown":"country",
                    "filters":[{}]}}"#,
                filters(of_all)
            );
            parsed(&text, NOW)
        };
        assert!(asked(8, 9).is_ok());
        for (of_a_step, of_all, path) in [
            (8, 10, "filters[9]"),
            (9, 0, "breakdown"),
            (10, 0, "steps[9].filters[0]"),
            (26, 0, "steps[3].filters[18]"),
        ] {
            let error = asked(of_a_step, of_all).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{path}`: this test is one more than")), "{error}");
        }
    }
}
