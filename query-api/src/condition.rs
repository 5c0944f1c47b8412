//! The condition that an event must meet to be counted.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tallyhouse_schema::number;

/// Something that every event has a value of, perhaps the empty one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub enum Field {
    /// The type of the event.
    EventType,
    /// A dimension, by name.
    Dimension(String),
}

/// The name of [`Field::EventType`]; no dimension is called so.
pub const EVENT_TYPE: &str = "event_type";

impl Field {
    /// The field of that name.
    pub fn named(name: &str) -> Self {
        if name == EVENT_TYPE { Self::EventType } else { Self::Dimension(name.to_owned()) }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::EventType => EVENT_TYPE,
            Self::Dimension(name) => name,
        }
    }
}

impl From<Field> for String {
    fn from(field: Field) -> Self {
        field.name().to_owned()
    }
}

/// How a value is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It is one of the texts.
    Is,
    /// It has one of the texts in it, in upper or lower case.
    Contains,
}

/// A condition. `And` of nothing always holds, `Or` of nothing never.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// All of them.
    And(Vec<Condition>),
    /// At least one of them.
    Or(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// A test of one field.
    Test {
        field: Field,
        how: How,
        /// The texts, sorted.
        values: BTreeSet<String>,
    },
    /// The fields together are one of these groups.
    Groups {
        /// The fields that the values of a group stand for, in order.
        by: Vec<Field>,
        /// The values of each, in their order, as a reading told them.
        groups: BTreeSet<Vec<String>>,
    },
}

impl Condition {
    /// Always holds.
    pub const fn always() -> Self {
        Self::And(Vec::new())
    }

    /// The field is one of the texts.
    pub fn is(field: Field, values: impl IntoIterator<Item = String>) -> Self {
        Self::Test { field, how: How::Is, values: values.into_iter().collect() }
    }

    /// None of these groups.
    pub fn none_of(by: &[Field], groups: impl IntoIterator<Item = Vec<String>>) -> Self {
        Self::Not(Box::new(Self::Groups { by: by.to_vec(), groups: groups.into_iter().collect() }))
    }

    /// Both hold, written in one way only, so that the same question has the same key.
    pub fn and(self, other: Self) -> Self {
        let mut all: Vec<Self> = [self, other]
            .into_iter()
            .flat_map(|one| match one {
                Self::And(several) => several,
                single => vec![single],
            })
            .collect();
        all.sort();
        all.dedup();
        match <[Self; 1]>::try_from(all) {
            Ok([one]) => one,
            Err(several) => Self::And(several),
        }
    }

    /// The dimensions that it looks at.
    pub fn dimensions(&self) -> BTreeSet<&str> {
        match self {
            Self::And(several) | Self::Or(several) => several.iter().flat_map(Self::dimensions).collect(),
            Self::Not(one) => one.dimensions(),
            Self::Test { field: Field::Dimension(name), .. } => BTreeSet::from([name.as_str()]),
            Self::Test { field: Field::EventType, .. } => BTreeSet::new(),
            Self::Groups { by, .. } => by.iter().filter(|field| **field != Field::EventType).map(Field::name).collect(),
        }
    }

    /// The texts that a dimension is to be, that are numbers and not written as a number is counted; and how it is counted.
    pub fn numbers_as_texts(&self) -> BTreeMap<String, String> {
        match self {
            Self::And(several) | Self::Or(several) => several.iter().flat_map(Self::numbers_as_texts).collect(),
            Self::Not(one) => one.numbers_as_texts(),
            Self::Test { field: Field::Dimension(_), how: How::Is, values } => {
                let counted = |text: &String| number::counted(text).map(|counted| (text.clone(), counted));
                values.iter().filter_map(counted).filter(|(text, counted)| text != counted).collect()
            }
            Self::Test { .. } | Self::Groups { .. } => BTreeMap::new(),
        }
    }

    /// How many tests it is made of.
    pub fn tests(&self) -> usize {
        match self {
            Self::And(several) | Self::Or(several) => several.iter().map(Self::tests).sum(),
            Self::Not(one) => one.tests(),
            Self::Test { .. } | Self::Groups { .. } => 1,
        }
    }

    /// Whether it tests that field.
    pub fn looks_at(&self, wanted: &Field) -> bool {
        match self {
            Self::And(several) | Self::Or(several) => several.iter().any(|one| one.looks_at(wanted)),
            Self::Not(one) => one.looks_at(wanted),
            Self::Test { field, .. } => field == wanted,
            Self::Groups { by, .. } => by.contains(wanted),
        }
    }

    /// The only event types that can pass, as far as it says so; `None` when any might.
    pub fn event_types(&self) -> Option<BTreeSet<&str>> {
        match self {
            Self::And(several) => {
                several.iter().filter_map(Self::event_types).reduce(|a, b| a.intersection(&b).copied().collect())
            }
            Self::Or(several) => several
                .iter()
                .map(Self::event_types)
                .reduce(|a, b| Some(a?.union(&b?).copied().collect()))
                .unwrap_or_else(|| Some(BTreeSet::new())),
            Self::Test { field: Field::EventType, how: How::Is, values } => {
                Some(values.iter().map(String::as_str).collect())
            }
            Self::Not(_) | Self::Test { .. } | Self::Groups { .. } => None,
        }
    }

    /// Every event type that it names, wherever and however it is tested for being one of them.
    pub fn named_event_types(&self) -> BTreeSet<&str> {
        match self {
            Self::And(several) | Self::Or(several) => several.iter().flat_map(Self::named_event_types).collect(),
            Self::Not(one) => one.named_event_types(),
            Self::Test { field: Field::EventType, how: How::Is, values } => values.iter().map(String::as_str).collect(),
            Self::Test { .. } | Self::Groups { .. } => BTreeSet::new(),
        }
    }

    /// Whether an event passes: what the database must agree with.
    #[cfg(test)]
    pub fn holds(&self, value: &dyn Fn(&Field) -> String) -> bool {
        match self {
            Self::And(several) => several.iter().all(|one| one.holds(value)),
            Self::Or(several) => several.iter().any(|one| one.holds(value)),
            Self::Not(one) => !one.holds(value),
            Self::Test { field, how: How::Is, values } => values.contains(&value(field)),
            Self::Groups { by, groups } => groups.contains(&by.iter().map(value).collect::<Vec<_>>()),
            Self::Test { field, how: How::Contains, values } => {
                values.iter().any(|text| value(field).to_lowercase().contains(&text.to_lowercase()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(name: &str, values: &[&str]) -> Condition {
        Condition::is(Field::named(name), values.iter().map(|value| (*value).to_owned()))
    }

    #[test]
    fn the_same_conditions_are_written_in_one_way() {
        let (a, b) = (is("country", &["DE"]), is("device", &["mobile"]));
        assert_eq!(a.clone().and(b.clone()), b.clone().and(a.clone()).and(a.clone()));
        assert_eq!(Condition::always().and(a.clone()), a);
        assert_eq!(Condition::always().and(Condition::always()), Condition::always());
        assert_eq!(Condition::Not(Box::new(a.clone().and(Condition::Or(vec![a, b])))).tests(), 3);
    }

    #[test]
    fn event_types_are_known_where_the_condition_pins_them() {
        let types = |condition: &Condition| condition.event_types().map(|types| types.into_iter().collect::<String>());
        let (ab, bc) = (is(EVENT_TYPE, &["a", "b"]), is(EVENT_TYPE, &["b", "c"]));
        assert_eq!(types(&ab.clone().and(bc.clone())).as_deref(), Some("b"));
        assert_eq!(types(&Condition::Or(vec![ab.clone(), bc])).as_deref(), Some("abc"));
        assert_eq!(types(&Condition::Or(vec![ab.clone(), is("country", &["DE"])])), None);
        assert_eq!(types(&Condition::Not(Box::new(ab.clone()))), None);
        assert_eq!(types(&ab.and(is("country", &["DE"]))).as_deref(), Some("ab"));
        assert_eq!(types(&Condition::always()), None);
        assert_eq!(types(&Condition::Or(vec![])).as_deref(), Some(""));
    }

    #[test]
    fn numbers_that_are_not_written_as_they_are_counted_are_told() {
        let condition =
            Condition::Not(Box::new(is("n", &["7.0", "7", "1.2.3", "x", "1e3"]).and(is(EVENT_TYPE, &["7.0"]))));
        let told: Vec<_> = condition.numbers_as_texts().into_iter().collect();
        assert_eq!(told, [("1e3".to_owned(), "1000".to_owned()), ("7.0".to_owned(), "7".to_owned())]);
    }

    #[test]
    fn it_holds_as_it_reads() {
        let value = |field: &Field| if field.name() == "country" { "DE".to_owned() } else { String::new() };
        assert!(
            is("country", &["DE", "FR"]).holds(&value)
                && !Condition::Not(Box::new(is("country", &["DE"]))).holds(&value)
        );
        assert!(Condition::always().holds(&value) && !Condition::Or(vec![]).holds(&value));
        let contains = Condition::Test {
            field: Field::named("country"),
            how: How::Contains,
            values: BTreeSet::from(["e".into()]),
        };
        assert!(contains.holds(&value));
    }
}
