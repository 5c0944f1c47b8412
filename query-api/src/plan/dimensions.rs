//! Chooses the set of dimensions that answers a question.

use std::collections::BTreeSet;

use tallyhouse_schema::catalogue::EventType;
use tallyhouse_schema::{Catalogue, DimSet};

use super::error::Unplannable;
use crate::request::error::quoted;
use crate::request::suggest::nearest;

/// How long after a set was declared, in seconds, it holds every event: processes learn of it within seconds, and an event may be said to
/// have happened some minutes after it was taken.
const SETTLED: i64 = 15 * 60;

/// A set of dimensions that answers a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub set: DimSet,
    /// Whether it holds every event of the range; else those since it was declared, and what was counted later.
    pub is_complete: bool,
}

/// The smallest set kept for these events that holds every dimension in `needed`; `types` are the only event types that can
/// be among them. A larger set than needed is exact too: every event stands in every set once, so what was not asked for is
/// merged away. So a larger set that was kept since `from` (in seconds) comes before a smaller one that was declared later; when there is
/// none, the one that was declared first.
pub fn choose(
    types: Option<&BTreeSet<&str>>,
    needed: &DimSet,
    catalogue: &Catalogue,
    from: i64,
) -> Result<Chosen, Unplannable> {
    if needed.is_total() {
        return Ok(Chosen { set: DimSet::total(), is_complete: true });
    }
    all_known(needed, catalogue)?;
    let kept = kept_for(types, catalogue);
    let complete_from = |set: &DimSet| {
        let since =
            types.into_iter().flatten().filter_map(|name| catalogue.event_type(name).since.get(set.key())).max();
        since.map_or(i64::MIN, |since_ms| since_ms.div_euclid(1_000) + SETTLED)
    };
    kept.iter()
        .filter(|set| needed.names().iter().all(|name| set.names().contains(name)))
        .map(|set| (complete_from(set), set))
        .min_by_key(|(complete_from, set)| ((*complete_from).max(from), set.names().len(), set.key()))
        .map(|(complete_from, set)| Chosen { set: set.clone(), is_complete: complete_from <= from })
        .ok_or_else(|| Unplannable::NotRolledUp {
            asked: needed.key().to_owned(),
            event_type: types.map(|types| quoted(&types.iter().copied().collect::<Vec<_>>().join(", "))),
            kept: kept.iter().map(|set| set.key().to_owned()).collect(),
            types: catalogue.types_with(needed).map(str::to_owned).collect(),
        })
}

/// The sets that all of these events stand in.
fn kept_for(types: Option<&BTreeSet<&str>>, catalogue: &Catalogue) -> Vec<DimSet> {
    let universal = EventType::default().sets;
    let mut each = types.into_iter().flatten().map(|name| &catalogue.event_type(name).sets);
    match each.next() {
        None => universal,
        Some(first) => {
            let others: Vec<_> = each.collect();
            first.iter().filter(|set| others.iter().all(|sets| sets.contains(set))).cloned().collect()
        }
    }
}

fn all_known(needed: &DimSet, catalogue: &Catalogue) -> Result<(), Unplannable> {
    let known = catalogue.dimension_names();
    match needed.names().iter().find(|name| !known.contains(name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Unplannable::UnknownDimension {
            name: quoted(name),
            near: nearest(name, known.iter()),
            known: known.into_iter().map(str::to_owned).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        Catalogue::from_documents([
            r#"{"eventType":"flight","dimensions":["origin","carrier"],"combinations":[["origin","carrier"],["carrier","dest","origin"]]}"#,
        ])
        .unwrap()
    }

    #[test]
    fn the_smallest_kept_superset_is_taken() {
        for (event_type, needed, expected) in [
            (None, vec![], ""),
            (None, vec!["device"], "device"),
            (None, vec!["device", "country"], "country,device"),
            (Some("flight"), vec!["origin"], "origin"),
            (Some("flight"), vec!["origin", "carrier"], "carrier,origin"),
            (Some("flight"), vec!["dest"], "carrier,dest,origin"),
            (Some("undeclared"), vec!["country"], "country"),
        ] {
            let types = event_type.map(|name| BTreeSet::from([name]));
            let set = choose(types.as_ref(), &DimSet::of(needed.clone()), &catalogue(), 0).unwrap().set;
            assert_eq!(set.key(), expected, "{event_type:?} {needed:?}");
        }
    }

    #[test]
    fn a_set_that_was_kept_all_the_time_comes_before_one_that_was_declared_later() {
        const DECLARED: i64 = 1_000_000;
        let later = [("carrier", DECLARED), ("carrier,origin", DECLARED - 500_000), ("dest", DECLARED)];
        let since = later.map(|(key, at)| (key.to_owned(), at * 1_000)).into();
        let flight = EventType { since, ..catalogue().event_type("flight").clone() };
        let catalogue = catalogue().with("flight", Some(flight.into()));
        let chosen = |needed: &str, from: i64| {
            let types = BTreeSet::from(["flight"]);
            let chosen = choose(Some(&types), &DimSet::of([needed]), &catalogue, from).unwrap();
            (chosen.set.key().to_owned(), chosen.is_complete)
        };
        for (needed, from, set, is_complete) in [
            ("carrier", DECLARED + SETTLED, "carrier", true),
            ("carrier", DECLARED + SETTLED - 1, "carrier,origin", true),
            ("carrier", DECLARED - 500_000, "carrier,dest,origin", true),
            ("origin", 0, "origin", true),
            ("dest", 0, "carrier,dest,origin", true),
        ] {
            assert_eq!(chosen(needed, from), (set.to_owned(), is_complete), "{needed} {from}");
        }
        let all = flight_since(&catalogue, DECLARED);
        let types = BTreeSet::from(["flight"]);
        let first = choose(Some(&types), &DimSet::of(["carrier"]), &all, 0).unwrap();
        assert_eq!((first.set.key(), first.is_complete), ("carrier,origin", false), "the one that was declared first");
    }

    /// Every declared set later than it is kept in `catalogue`, or at `at`.
    fn flight_since(catalogue: &Catalogue, at: i64) -> Catalogue {
        let flight = catalogue.event_type("flight");
        let mut since = flight.since.clone();
        since.entry("carrier,dest,origin".to_owned()).or_insert(at * 1_000);
        catalogue.clone().with("flight", Some(EventType { since, ..flight.clone() }.into()))
    }

    #[test]
    fn refusals_say_what_is_kept() {
        let refused = |event_type: Option<&'static str>, needed: &[&str]| {
            let types = event_type.map(|name| BTreeSet::from([name]));
            choose(types.as_ref(), &DimSet::of(needed.iter().copied()), &catalogue(), 0).unwrap_err().to_string()
        };
        assert_eq!(refused(None, &["orign"]), "there is no dimension `orign`; did you mean origin?");
        assert_eq!(
            refused(None, &["origin"]),
            "all events together (no eventType given) are not rolled up by origin; kept: country; device; country,device \
             (kept for eventType flight)"
        );
        assert!(
            refused(Some("flight"), &["country", "origin"])
                .starts_with("`flight` events are not rolled up by country,origin")
        );
    }
}
