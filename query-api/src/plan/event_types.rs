//! The plan of `GET /v1/event-types`: what is read, and what is known without reading.

use std::collections::BTreeMap;

use serde::Serialize;
use tallyhouse_schema::catalogue::FALLBACK_VALUE_PROPERTIES;
use tallyhouse_schema::{Catalogue, DimSet, Rollup};

use super::Unplannable;
use super::read::Read;
use crate::condition::{Condition, Field};
use crate::request::event_types::{EventTypesQuery, Properties};
use crate::time::{DAY, Zone};

/// Seconds of an hour: hours of UTC are what is read, so that every zone is answered from the same rollup.
pub const HOUR: i64 = 3_600;

/// Types of a list whose properties are looked for: each costs a granule or two of raw events.
pub const SAMPLED_TYPES: usize = 50;

/// Raw events that are looked at of each type of a list.
pub const SAMPLED_OF_MANY: u32 = 500;

/// Raw events that are looked at of the one type that is asked for.
pub const SAMPLED_OF_ONE: u32 = 10_000;

/// The types of a range.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventTypesPlan {
    /// From this second on, a whole hour of UTC.
    pub from: i64,
    /// Until before this one, likewise.
    pub to: i64,
    /// The one type asked for; `None` for all.
    pub event_type: Option<String>,
    /// Types that are listed at most, those with most events first.
    pub limit: u32,
    /// Raw events that are looked at of each type; 0 for none.
    pub sampled: u32,
    /// The zone whose offset times are written with.
    pub zone: Zone,
    /// What declared types declare.
    pub declared: BTreeMap<String, Declared>,
    /// What all others have.
    pub undeclared: Declared,
}

impl EventTypesPlan {
    /// The rows that it is made of, without groups; so many types were found, of which [`Self::limit`] are listed. Of the
    /// others, one may have a newer event than all that were found.
    pub fn read(&self, found: usize) -> Read {
        let named = self.event_type.clone().map(|name| Condition::is(Field::EventType, [name]));
        let condition = named.unwrap_or_else(Condition::always);
        let is_cut = found > self.limit as usize;
        Read { condition, top: is_cut.then_some(0), ..Read::total(Rollup::Hour, self.from, self.to) }
    }
}

/// What events of a type are counted by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Declared {
    /// Whether there is a declaration.
    pub declared: bool,
    /// Properties of which the first that can be counted is the event's value.
    pub value_properties: Vec<String>,
    /// Dimensions that are rolled up alone.
    pub dimensions: Vec<String>,
    /// Those that are rolled up together.
    pub combinations: Vec<Vec<String>>,
}

impl Declared {
    fn of(catalogue: &Catalogue, name: Option<&str>) -> Self {
        // No event has an empty type, so nothing is declared of it.
        let known = catalogue.event_type(name.unwrap_or_default());
        let fallback = || FALLBACK_VALUE_PROPERTIES.map(str::to_owned).to_vec();
        let names: Vec<&[String]> = known.sets.iter().map(DimSet::names).collect();
        let alone = names.iter().filter_map(|names| if let [one] = names { Some(one.clone()) } else { None });
        Self {
            declared: name.is_some(),
            value_properties: known.value.clone().map_or_else(fallback, |value| vec![value]),
            dimensions: alone.collect(),
            combinations: names.iter().filter(|names| names.len() > 1).map(|names| names.to_vec()).collect(),
        }
    }
}

/// Plans it at `now_ms`.
pub fn plan(query: &EventTypesQuery, catalogue: &Catalogue, now_ms: i64) -> Result<EventTypesPlan, Unplannable> {
    let (from, to) = query.window.bounds(now_ms);
    let earliest = now_ms.div_euclid(1_000) - Rollup::Hour.retention_days() * DAY;
    if from < earliest {
        return Err(Unplannable::Expired { kept_days: Rollup::Hour.retention_days(), earliest: None });
    }
    let is_asked = |name: &&str| query.event_type.as_deref().is_none_or(|asked| asked == *name);
    let declared = catalogue.declared().filter(is_asked);
    Ok(EventTypesPlan {
        from: from.div_euclid(HOUR) * HOUR,
        to: (to + HOUR - 1).div_euclid(HOUR) * HOUR,
        event_type: query.event_type.clone(),
        limit: query.limit,
        sampled: match (query.properties, &query.event_type) {
            (Properties::None, _) => 0,
            (Properties::Sampled, None) => SAMPLED_OF_MANY,
            (Properties::Sampled, Some(_)) => SAMPLED_OF_ONE,
        },
        zone: query.zone.clone(),
        declared: declared.map(|name| (name.to_owned(), Declared::of(catalogue, Some(name)))).collect(),
        undeclared: Declared::of(catalogue, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Params;
    use crate::request::event_types::EVENT_TYPES_PARAMS;

    /// 2026-11-20T12:34:56.789Z
    const NOW: i64 = 1_795_178_096_789;

    fn planned(raw: &str) -> Result<EventTypesPlan, Unplannable> {
        let params = Params::parse(Some(raw), EVENT_TYPES_PARAMS).unwrap();
        plan(&EventTypesQuery::parse(&params, NOW).unwrap(), &Catalogue::built_in().unwrap(), NOW)
    }

    #[test]
    fn whole_hours_are_read_and_equal_plans_within_one() {
        let plan = planned("").unwrap();
        assert_eq!((plan.to - plan.from) / HOUR, 30 * 24 + 1);
        let shown = |plan: &EventTypesPlan| (plan.zone.rfc3339(plan.from), plan.zone.rfc3339(plan.to));
        let kolkata = planned("startTime=2026-11-19&endTime=2026-11-20&timezone=Asia/Kolkata").unwrap();
        assert_eq!(shown(&kolkata), ("2026-11-18T23:30:00+05:30".to_owned(), "2026-11-20T00:30:00+05:30".to_owned()));
        assert!(matches!(planned("startTime=2021-01-01&endTime=2021-02-01"), Err(Unplannable::Expired { .. })));
    }

    #[test]
    fn what_is_declared_is_told_and_the_rest_has_the_default() {
        let plan = planned("").unwrap();
        let departed = &plan.declared["flight_departed"];
        assert!(departed.declared && departed.dimensions.contains(&"carrier".to_owned()), "{departed:?}");
        assert_eq!(departed.value_properties.len(), 1);
        assert!(!plan.undeclared.declared);
        assert_eq!(plan.undeclared.dimensions, ["country", "device"]);
        assert_eq!(plan.undeclared.combinations, [["country", "device"]]);
        assert_eq!(plan.undeclared.value_properties, ["value", "amount", "revenue"]);
        assert_eq!(planned("eventType=purchase").unwrap().declared.len(), 1);
    }
}
