//! Chooses the set of dimensions that answers a question.

use std::collections::BTreeSet;

use tallyhouse_schema::catalogue::EventType;
use tallyhouse_schema::{Catalogue, DimSet};

use super::error::Unplannable;
use crate::request::error::quoted;
use crate::request::suggest::nearest;

/// The smallest set kept for these events that holds every dimension in `needed`; `types` are the only event types that can
/// be among them. A larger set than needed is exact too: every event stands in every set once, so what was not asked for is
/// merged away.
pub fn choose(types: Option<&BTreeSet<&str>>, needed: &DimSet, catalogue: &Catalogue) -> Result<DimSet, Unplannable> {
    if needed.is_total() {
        return Ok(DimSet::total());
    }
    all_known(needed, catalogue)?;
    let kept = kept_for(types, catalogue);
    kept.iter()
        .filter(|set| needed.names().iter().all(|name| set.names().contains(name)))
        .min_by_key(|set| (set.names().len(), set.key()))
        .cloned()
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
            let set = choose(types.as_ref(), &DimSet::of(needed.clone()), &catalogue()).unwrap();
            assert_eq!(set.key(), expected, "{event_type:?} {needed:?}");
        }
    }

    #[test]
    fn refusals_say_what_is_kept() {
        let refused = |event_type: Option<&'static str>, needed: &[&str]| {
            let types = event_type.map(|name| BTreeSet::from([name]));
            choose(types.as_ref(), &DimSet::of(needed.iter().copied()), &catalogue()).unwrap_err().to_string()
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
