//! Conditions and values of fields, as SQL over a row of a rollup or a raw event.

use std::borrow::Cow;
use std::collections::BTreeSet;

use tallyhouse_schema::DimSet;
use tallyhouse_schema::dimension::{VALUE_SEPARATOR, counted_value, stored_text};

use super::{Statement, Value};
use crate::condition::{Condition, Field, How};
use crate::plan::read::Source;

pub(super) fn condition(tree: &Condition, source: &Source, statement: &mut Statement) -> String {
    let mut join = |several: &[Condition], word: &str, of_none: &str| {
        let parts: Vec<_> = several.iter().map(|one| condition(one, source, statement)).collect();
        if parts.is_empty() { of_none.to_owned() } else { format!("({})", parts.join(word)) }
    };
    match tree {
        Condition::And(several) => join(several, " AND ", "1"),
        Condition::Or(several) => join(several, " OR ", "0"),
        Condition::Not(one) => format!("NOT {}", condition(one, source, statement)),
        Condition::Groups { by, groups } => one_of(by, groups, source, statement),
        Condition::Test { field, how, values } => match (field, source) {
            (Field::EventType, _) => test("event_type", *how, values.iter().cloned().collect(), statement),
            (Field::Dimension(_), Source::Rollup { .. }) => {
                let value = value(field, source, statement);
                test(&value, *how, texts(values, counted_value), statement)
            }
            (Field::Dimension(name), Source::Raw) => raw_test(name, *how, values, statement),
        },
    }
}

/// Each value with its length before it, so that no two groups are the same text.
fn one_of(by: &[Field], groups: &BTreeSet<Vec<String>>, source: &Source, statement: &mut Statement) -> String {
    let texts = groups.iter().map(|group| group.iter().map(|value| format!("{}:{value}", value.len())).collect());
    let name = format!("groups_{}", statement.params.len());
    statement.bind(name.clone(), Value::Texts(texts.collect()));
    let values: Vec<_> = by
        .iter()
        .map(|field| {
            let value = format!("toString({})", value(field, source, statement));
            format!("toString(length({value})), ':', {value}")
        })
        .collect();
    format!("(concat({}) IN {{{name}:Array(String)}})", values.join(", "))
}

/// As for a rollup where the event was counted under the dimension; else its column or property is told apart by all of it.
fn raw_test(name: &str, how: How, values: &BTreeSet<String>, statement: &mut Statement) -> String {
    let RawValue { is_counted, counted, own } = RawValue::of(name, statement);
    let (as_counted, as_stored) = (texts(values, counted_value), texts(values, stored_text));
    if as_counted == as_stored {
        return test(&format!("if({is_counted}, {counted}, {own})"), how, as_counted, statement);
    }
    let (counted, own) = (test(&counted, how, as_counted, statement), test(&own, how, as_stored, statement));
    format!("if({is_counted}, {counted}, {own})")
}

fn texts(values: &BTreeSet<String>, as_: fn(Cow<'_, str>) -> Cow<'_, str>) -> Vec<String> {
    let texts: BTreeSet<String> = values.iter().map(|text| as_(text.into()).into_owned()).collect();
    texts.into_iter().collect()
}

fn test(value: &str, how: How, texts: Vec<String>, statement: &mut Statement) -> String {
    let name = format!("texts_{}", statement.params.len());
    statement.bind(name.clone(), Value::Texts(texts));
    match how {
        How::Is => format!("({value} IN {{{name}:Array(String)}})"),
        // Not one of the multiSearch functions: those take at most 255 texts and none that is empty.
        How::Contains => {
            format!("arrayExists(text -> positionCaseInsensitiveUTF8({value}, text) > 0, {{{name}:Array(String)}})")
        }
    }
}

/// The value of a field in a row.
pub(super) fn value(field: &Field, source: &Source, statement: &mut Statement) -> String {
    match (field, source) {
        (Field::EventType, _) => "event_type".to_owned(),
        // Of a single dimension it is the column itself, so that its index is used.
        (Field::Dimension(_), Source::Rollup { set, .. }) if set.names().len() == 1 => "dim_value".to_owned(),
        (Field::Dimension(name), Source::Rollup { set, .. }) => format!("{}[{}]", values(), position(set, name)),
        (Field::Dimension(name), Source::Raw) => {
            let RawValue { is_counted, counted, own } = RawValue::of(name, statement);
            format!("if({is_counted}, {counted}, {own})")
        }
    }
}

/// Columns of `events` that are dimensions by themselves.
const COLUMNS: [&str; 6] = ["country", "device", "os", "browser", "locale", "page"];

/// The value of a dimension of a raw event, as SQL.
struct RawValue {
    /// Whether the event was counted under the dimension.
    is_counted: String,
    /// What it was counted under, so that raw and rollups agree.
    counted: String,
    /// Its column or property. A number is written as it would be counted: as `toString` does, but without the sign of zero.
    own: String,
}

impl RawValue {
    fn of(name: &str, statement: &mut Statement) -> Self {
        let bound = format!("name_{}", statement.params.len());
        statement.bind(bound.clone(), Value::Text(name.to_owned()));
        let own = match COLUMNS.into_iter().find(|column| *column == name) {
            Some(column) => format!("toString({column})"),
            None => format!(
                "if(mapContains(props, {{{bound}:String}}), props[{{{bound}:String}}], \
                 if(mapContains(num_props, {{{bound}:String}}), toString(num_props[{{{bound}:String}}] + 0), ''))"
            ),
        };
        Self {
            is_counted: format!("arrayExists(dim -> dim.1 = {{{bound}:String}}, dims)"),
            counted: format!("arrayFirst(dim -> dim.1 = {{{bound}:String}}, dims).2"),
            own,
        }
    }
}

pub(super) fn values() -> String {
    format!("splitByChar(char({}), dim_value)", u32::from(VALUE_SEPARATOR))
}

/// Place of a dimension in its set, from 1. The planner chose a set that has it; 0 would read as no value.
fn position(set: &DimSet, dimension: &str) -> usize {
    set.names().iter().position(|name| name == dimension).map_or(0, |index| index + 1)
}
