//! One way to write a number, and which numbers a double can hold.
//!
//! The same number is one dimension value, wherever it is written: by the ingester for declared dimensions, and by ClickHouse's
//! `toString` for raw events. Both write the fewest digits that read back as the same double, plainly from 1e-6 to below 1e21, else
//! with an exponent (`1e21`, `1.5e-7`). Zero has no sign.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::property::PropertyValue;

/// Every whole number up to here is a double: 2^53.
const EXACT: u64 = 1 << 53;

/// From here on a number that JSON gives as a double may have been a longer integer: neither `i64` nor `u64` holds it.
pub const MAYBE_LONG: f64 = 9.2e18;

/// The one way to write a double.
pub fn canonical(number: f64) -> String {
    // `-0` is `0`.
    let number = number + 0.0;
    let magnitude = number.abs();
    if magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) { number.to_string() } else { format!("{number:e}") }
}

/// How a number that is written in JSON is counted; `None` for what is no number.
pub fn counted(text: &str) -> Option<String> {
    let starts_as_one = text.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
    let is_one = starts_as_one && serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get() == text);
    if !is_one {
        return None;
    }
    Some(match written(text.into()) {
        PropertyValue::Number(number) => canonical(number),
        PropertyValue::Text(text) => text.into_owned(),
    })
}

/// A plain decimal text as a number: digits, at most one point among them, a sign in front, spaces around. No exponent, no comma,
/// no grouping: what they mean differs from sender to sender.
pub(crate) fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    // The parser refuses a second point and a text without digits.
    if is_plain { text.parse().ok() } else { None }
}

impl PropertyValue<'_> {
    pub(crate) fn of_i64(number: i64) -> Self {
        if number.unsigned_abs() <= EXACT { Self::Number(number as f64) } else { written(number.to_string().into()) }
    }

    pub(crate) fn of_u64(number: u64) -> Self {
        if number <= EXACT { Self::Number(number as f64) } else { written(number.to_string().into()) }
    }

    pub(crate) fn of_f64(number: f64) -> Self {
        Self::Number(number + 0.0)
    }
}

/// A number as it stands in JSON. An integer of which a double would lose digits stays a text, and so does what is beyond
/// doubles (1e999). Of decimals the nearest double is kept.
pub(crate) fn written(text: Cow<'_, str>) -> PropertyValue<'_> {
    let is_integer = !text.contains(['.', 'e', 'E']);
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && (!is_integer || number.abs() < EXACT as f64) => {
            PropertyValue::of_f64(number)
        }
        // The shortest digits, padded with zeros: the same text means that none is lost.
        Ok(number) if number.is_finite() && number.to_string() == text => PropertyValue::Number(number),
        _ => PropertyValue::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_to_write_a_number() {
        // As ClickHouse's `toString` writes them, but for `-0`.
        for (number, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (7.0, "7"),
            (-7.5, "-7.5"),
            (0.1, "0.1"),
            (1e-6, "0.000001"),
            (1.234e-5, "0.00001234"),
            (1e-7, "1e-7"),
            (1.5e-7, "1.5e-7"),
            (1e20, "100000000000000000000"),
            (1e21, "1e21"),
            (-1e22, "-1e22"),
            (123_456_789_012_345_680.0, "123456789012345680"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (1_152_921_504_606_846_976.0, "1152921504606847000"),
            (f64::MAX, "1.7976931348623157e308"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(canonical(number), expected);
            assert_eq!(canonical(expected.parse().unwrap()), expected, "it reads back as itself");
        }
    }

    #[test]
    fn what_is_written_as_a_number_is_told_from_other_texts() {
        for (text, expected) in [
            ("7.0", Some("7")),
            ("7e0", Some("7")),
            ("-0", Some("0")),
            ("7", Some("7")),
            ("9007199254740993", Some("9007199254740993")),
            ("007", None),
            ("1.2.3", None),
            ("+7", None),
            ("nan", None),
            (" 7", None),
            ("7 ", None),
            ("\"7\"", None),
            ("", None),
        ] {
            assert_eq!(counted(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn no_digit_of_an_integer_is_lost() {
        let number = PropertyValue::Number;
        let text = |text: &'static str| PropertyValue::Text(text.into());
        for (json, expected) in [
            ("0", number(0.0)),
            ("-0", number(0.0)),
            ("7.0", number(7.0)),
            ("7e0", number(7.0)),
            ("9007199254740992", number(9_007_199_254_740_992.0)),
            ("9007199254740993", text("9007199254740993")),
            ("-9007199254740993", text("-9007199254740993")),
            ("9007199254740994", number(9_007_199_254_740_994.0)),
            ("1152921504606846976", text("1152921504606846976")),
            ("123456789012345680", number(123_456_789_012_345_680.0)),
            ("18446744073709551615", text("18446744073709551615")),
            ("18446744073709551617", text("18446744073709551617")),
            ("-170141183460469231731687303715884105729", text("-170141183460469231731687303715884105729")),
            ("10000000000000000000000", number(1e22)),
            ("1e22", number(1e22)),
            ("1e999", text("1e999")),
            ("-1e999", text("-1e999")),
            ("5e-324", number(5e-324)),
            ("1e-400", number(0.0)),
        ] {
            let found = written(json.into());
            assert_eq!(found, expected, "{json}");
            if let PropertyValue::Number(zero) = found {
                assert!(zero != 0.0 || zero.is_sign_positive(), "{json}");
            }
        }
        assert_eq!(PropertyValue::of_i64(i64::MIN), text("-9223372036854775808"));
        assert_eq!(PropertyValue::of_u64(9_007_199_254_740_993), text("9007199254740993"));
        assert_eq!(PropertyValue::of_i64(-9_007_199_254_740_993), text("-9007199254740993"));
    }
}
