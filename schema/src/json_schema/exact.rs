//! Numbers that are compared exactly: a double tells 2^53 + 1 from 2^53 no more.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Number;

/// Every whole number up to here is a double: 2^53.
const EXACT: i128 = 1 << 53;

/// Beyond, a double has no whole number of 128 bits.
const LARGEST: f64 = 1.7e38;

/// A number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Exact {
    Double(f64),
    /// A whole one beyond 2^53.
    Whole(i128),
}

impl Exact {
    pub(super) fn of(number: &Number) -> Self {
        match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Self::whole(whole.into()),
            (None, Some(whole)) => Self::whole(whole.into()),
            (None, None) => Self::Double(number.as_f64().unwrap_or(f64::INFINITY)),
        }
    }

    /// A number that is kept as text: a long integer, or one beyond doubles.
    pub(super) fn of_text(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Double(text.parse().unwrap_or(f64::INFINITY)), Self::whole)
    }

    const fn whole(whole: i128) -> Self {
        if whole.unsigned_abs() <= EXACT as u128 { Self::Double(whole as f64) } else { Self::Whole(whole) }
    }

    /// Whether it is a multiple of a whole number; `None` when one of them is too large to tell.
    pub(super) fn is_multiple_of(self, unit: Self) -> Option<bool> {
        match (self, unit) {
            (Self::Double(number), _) if !number.is_finite() => None,
            (Self::Double(number), Self::Double(unit)) => Some(number % unit == 0.0),
            (Self::Double(number), Self::Whole(_)) if number.fract() != 0.0 => Some(false),
            _ => Some(self.as_whole()?.checked_rem(unit.as_whole()?)? == 0),
        }
    }

    fn as_whole(self) -> Option<i128> {
        match self {
            Self::Whole(whole) => Some(whole),
            Self::Double(number) => (number.fract() == 0.0 && number.abs() < LARGEST).then_some(number as i128),
        }
    }
}

impl PartialEq for Exact {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (*self, *other) {
            (Self::Double(one), Self::Double(other)) => one.partial_cmp(&other),
            (Self::Whole(one), Self::Whole(other)) => Some(one.cmp(&other)),
            (Self::Whole(whole), Self::Double(number)) => with_double(whole, number),
            (Self::Double(number), Self::Whole(whole)) => with_double(whole, number).map(Ordering::reverse),
        }
    }
}

fn with_double(whole: i128, number: f64) -> Option<Ordering> {
    if number.is_nan() || number.abs() >= LARGEST {
        return 0.0.partial_cmp(&number);
    }
    Some(whole.cmp(&(number.trunc() as i128)).then(0.0.partial_cmp(&number.fract())?))
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Double(number) => number.fmt(f),
            Self::Whole(whole) => whole.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_apart_that_are_one_double() {
        let of = Exact::of_text;
        let rising = [
            "-1e999",
            "-9007199254740993",
            "-9007199254740992",
            "-0.5",
            "0",
            "1.5",
            "9007199254740992",
            "9007199254740993",
            "18446744073709551615",
            "1e30",
            "1e999",
        ];
        for (place, one) in rising.iter().enumerate() {
            for (other_place, other) in rising.iter().enumerate() {
                assert_eq!(of(one).partial_cmp(&of(other)), Some(place.cmp(&other_place)), "{one} {other}");
            }
        }
        assert_eq!(of("9007199254740993").is_multiple_of(of("3")), Some(true));
        assert_eq!(of("9007199254740994").is_multiple_of(of("3")), Some(false));
        assert_eq!(of("0").is_multiple_of(of("9007199254740993")), Some(true));
        assert_eq!(of("1.5").is_multiple_of(of("9007199254740993")), Some(false));
        assert_eq!(of("1e999").is_multiple_of(of("9007199254740993")), None);
    }
}
