//! The number that an event is worth: which property gives it, what is read as a number, and how large it may be.

use std::borrow::Cow;

use crate::catalogue::{EventType, FALLBACK_VALUE_PROPERTIES};
use crate::limits::{MAX_VALUE, MIN_VALUE};
use crate::number::decimal;
use crate::property::{Property, PropertyValue};
use crate::text;
use crate::warning::Warning;

/// Bytes of a property that a warning repeats.
const MAX_EXCERPT_BYTES: usize = 40;

/// A number after the bounds of [`MAX_VALUE`] and [`MIN_VALUE`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bounded {
    /// Within them.
    Counted(f64),
    /// Too close to 0: counts as 0.
    Zero,
    /// Too large, or no number: not counted.
    Refused,
}

/// Applies the bounds.
pub(crate) fn bounded(number: f64) -> Bounded {
    match number.abs() {
        0.0 => Bounded::Counted(0.0),
        magnitude if magnitude < MIN_VALUE => Bounded::Zero,
        magnitude if magnitude <= MAX_VALUE => Bounded::Counted(number),
        // NaN too, which is neither.
        _ => Bounded::Refused,
    }
}

/// The value of an event: the first of its value properties that can be counted. Each one before it that is there and cannot be
/// counted goes to `warn`, and one that counts as 0. `empty` are the names of objects without an entry.
pub(crate) fn of(
    declared: &EventType,
    properties: &[Property<'_>],
    empty: &[Cow<'_, str>],
    mut warn: impl FnMut(Warning),
) -> Option<f64> {
    let names = declared.value.as_deref().map_or(&FALLBACK_VALUE_PROPERTIES[..], |_| &[]);
    declared.value.as_deref().into_iter().chain(names.iter().copied()).find_map(|name| {
        let field = || name.to_owned();
        let number = match find(name, properties) {
            Some(Candidate::Number(number)) => number,
            Some(Candidate::Text(found)) => match decimal(found).or_else(|| beyond_doubles(found)) {
                Some(number) => number,
                None => {
                    let found = text::cut(Cow::Borrowed(found), MAX_EXCERPT_BYTES).0.into_owned();
                    warn(Warning::ValueNotANumber { field: field(), found: format!("{found:?}") });
                    return None;
                }
            },
            Some(Candidate::Object) => {
                warn(Warning::ValueNotANumber { field: field(), found: "an object".to_owned() });
                return None;
            }
            None if empty.iter().any(|empty| empty == name) => {
                warn(Warning::ValueNotANumber { field: field(), found: "an object".to_owned() });
                return None;
            }
            None => return None,
        };
        match bounded(number) {
            Bounded::Counted(number) => Some(number),
            Bounded::Zero => {
                warn(Warning::ValueTooSmall { field: field() });
                Some(0.0)
            }
            Bounded::Refused => {
                warn(Warning::ValueTooLarge { field: field() });
                None
            }
        }
    })
}

/// What an event has under the name of its value.
enum Candidate<'p> {
    Number(f64),
    Text(&'p str),
    /// Its entries are properties of their own, `name.…`.
    Object,
}

fn find<'p>(name: &str, properties: &'p [Property<'_>]) -> Option<Candidate<'p>> {
    let is_entry = |property: &Property<'_>| property.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    match properties.iter().find(|property| property.name == name).map(|property| &property.value) {
        Some(PropertyValue::Number(number)) => Some(Candidate::Number(*number)),
        Some(PropertyValue::Text(text)) => Some(Candidate::Text(text)),
        None => properties.iter().any(is_entry).then_some(Candidate::Object),
    }
}

/// A number that no double can hold is kept as the text it was, and is too large in any notation.
fn beyond_doubles(text: &str) -> Option<f64> {
    let is_number = text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
    text.parse().ok().filter(|number: &f64| is_number && number.is_infinite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_comes_before_the_entries_of_an_object_of_its_name() {
        let property = |name: &'static str, value| Property::new(name, value);
        let entry = property("amount.of", PropertyValue::Number(1.0));
        let amount = property("amount", PropertyValue::Text("9007199254740993".into()));
        for properties in [[entry.clone(), amount.clone()], [amount, entry]] {
            let value = of(&EventType::default(), &properties, &[], |warning| panic!("{warning}"));
            assert_eq!(value, Some(9_007_199_254_740_992.0), "the double next to it");
        }
    }

    #[test]
    fn only_a_plain_decimal_text_is_a_number() {
        for (text, expected) in [
            ("12.50", 12.5),
            ("-3", -3.0),
            ("+3", 3.0),
            (" 007 ", 7.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("0", 0.0),
            ("9007199254740993", 9_007_199_254_740_992.0),
        ] {
            assert_eq!(decimal(text), Some(expected), "{text:?}");
        }
        for text in [
            "", " ", ".", "-", "+-1", "--1", "1.2.3", "12,50", "1,234.5", "1 234", "1_000", "€12", "12€", "1e3",
            "0x10", "NaN", "inf", "Infinity", "-inf", "true", "[1]", "١٢",
        ] {
            assert_eq!(decimal(text), None, "{text:?}");
        }
        assert_eq!(bounded(decimal(&"9".repeat(400)).unwrap()), Bounded::Refused);
    }

    #[test]
    fn the_bounds() {
        for within in [MAX_VALUE, -MAX_VALUE, MIN_VALUE, -MIN_VALUE, 1.0] {
            assert_eq!(bounded(within), Bounded::Counted(within));
        }
        for zero in [MIN_VALUE / 2.0, -MIN_VALUE / 2.0, f64::MIN_POSITIVE, 5e-324, -5e-324] {
            assert_eq!(bounded(zero), Bounded::Zero, "{zero}");
        }
        for refused in [1.000_001 * MAX_VALUE, f64::MIN, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(bounded(refused), Bounded::Refused, "{refused}");
        }
        let Bounded::Counted(zero) = bounded(-0.0) else { panic!("-0 is a number") };
        assert!(zero.is_sign_positive(), "-0 would be written as such in every minimum");
    }
}
