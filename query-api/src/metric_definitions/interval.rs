//! The interval that contains a true value, given estimates of the values that it is computed from.
//!
//! Interval arithmetic holds however the estimates depend on each other: users of two conditions are estimated from
//! the same hashes, so their errors are not independent and must not be added as squares. The price is width: what occurs
//! twice in a formula counts twice.

use super::definition::Operation;

/// What is known of the true value behind an answer's number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bounds {
    /// The number is the true value, or there is none.
    Exact,
    /// It lies in here.
    Within(Interval),
    /// It can be anything: a divisor may be 0.
    Unknown,
}

/// From the least to the greatest value that can be true.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    low: f64,
    high: f64,
}

/// How far a number may be off; `None` where no bound can be given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Margin {
    /// As a part of the true value; none where the true value may be 0.
    pub relative: Option<f64>,
    /// In the number's own unit.
    pub absolute: Option<f64>,
}

impl Margin {
    /// Of what is exact.
    pub const NONE: Self = Self { relative: Some(0.0), absolute: Some(0.0) };

    /// The wider of both.
    #[must_use]
    pub fn or_wider(self, other: Self) -> Self {
        Self { relative: wider(self.relative, other.relative), absolute: wider(self.absolute, other.absolute) }
    }
}

/// The greater of both; none is greater than any.
pub fn wider(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one?.max(other?))
}

impl Interval {
    /// A value that is exact.
    pub const fn exact(value: f64) -> Self {
        Self { low: value, high: value }
    }

    /// A value that is nearer to the true one than `relative` times the true one; less than 1.
    pub fn of_estimate(value: f64, relative: f64) -> Self {
        Self::around([value / (1.0 + relative), value / (1.0 - relative)])
    }

    /// The least interval with all of these.
    fn around<const N: usize>(corners: [f64; N]) -> Self {
        let low = corners.into_iter().fold(f64::INFINITY, f64::min);
        Self { low, high: corners.into_iter().fold(f64::NEG_INFINITY, f64::max) }
    }

    /// What is done with both; none by a divisor that may be 0.
    pub fn with(self, operation: Operation, other: Self) -> Option<Self> {
        let corners = |op: fn(f64, f64) -> f64| {
            let (low, high) = (other.low, other.high);
            Self::around([op(self.low, low), op(self.low, high), op(self.high, low), op(self.high, high)])
        };
        let result = match operation {
            Operation::Add => Self { low: self.low + other.low, high: self.high + other.high },
            Operation::Subtract => Self { low: self.low - other.high, high: self.high - other.low },
            Operation::Multiply => corners(|one, other| one * other),
            Operation::Divide if other.has_zero() => return None,
            Operation::Divide => corners(|one, other| one / other),
        };
        (result.low.is_finite() && result.high.is_finite()).then_some(result)
    }

    /// How far `value`, which stands for the true value in here, may be off.
    pub fn margin(self, value: f64) -> Margin {
        let off = |truth: f64| (value - truth).abs();
        // Between the ends, and away from 0, the relative error has no maximum of its own.
        let relative = |truth: f64| if off(truth) == 0.0 { 0.0 } else { off(truth) / truth.abs() };
        let is_exact = self.low == self.high && off(self.low) == 0.0;
        let relative = (is_exact || !self.has_zero()).then(|| relative(self.low).max(relative(self.high)));
        Margin { relative, absolute: Some(off(self.low).max(off(self.high))) }
    }

    /// Where the change from `before`, in per cent of its size, lies; none where that may be 0.
    pub fn change_percent(self, before: Self) -> Option<Self> {
        if before.has_zero() {
            return None;
        }
        let change = |now: f64, before: f64| (now - before) / before.abs() * 100.0;
        let (low, high) = (before.low, before.high);
        let corners = [(self.low, low), (self.low, high), (self.high, low), (self.high, high)];
        Some(Self::around(corners.map(|(now, before)| change(now, before))))
    }

    fn has_zero(self) -> bool {
        self.low <= 0.0 && self.high >= 0.0
    }
}

impl Bounds {
    /// How far `value` may be off.
    pub fn margin(self, value: Option<f64>) -> Margin {
        match (self, value) {
            (Self::Exact, _) | (_, None) => Margin::NONE,
            (Self::Within(interval), Some(value)) => interval.margin(value),
            (Self::Unknown, Some(_)) => Margin { relative: None, absolute: None },
        }
    }

    /// Where the true value behind `value` lies; none where it can be anything, or there is no value.
    pub fn interval(self, value: Option<f64>) -> Option<Interval> {
        match self {
            Self::Exact => value.map(Interval::exact),
            Self::Within(interval) => Some(interval),
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::definition::{Definition, Expression, FormulaPart};
    use super::super::{Measure, Metric};
    use super::*;
    use crate::condition::Condition;

    const OPERATIONS: [Operation; 4] = [Operation::Add, Operation::Subtract, Operation::Multiply, Operation::Divide];

    /// Formulas over parts 0 to 3, constants among them.
    fn formula() -> impl Strategy<Value = Expression> {
        let leaf = prop_oneof![
            3 => (0_usize..4).prop_map(Expression::Part),
            1 => (-100.0..100.0_f64).prop_map(Expression::Number),
        ];
        leaf.prop_recursive(4, 16, 2, |inner| {
            (prop::sample::select(&OPERATIONS), inner.clone(), inner)
                .prop_map(|(operation, left, right)| Expression::Of(operation, Box::new(left), Box::new(right)))
        })
    }

    fn metric(expression: Expression) -> Definition {
        let part = FormulaPart { measure: Measure::Users, condition: Condition::always() };
        let built_in = Definition::built_in(Metric::named("users").unwrap());
        Definition { parts: vec![part; 4], expression, ..built_in }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Estimates that are up to k standard errors off stay within what is propagated from k standard errors.
        #[test]
        fn a_formula_is_never_further_off_than_its_bounds(
            expression in formula(),
            truths in prop::array::uniform4(prop_oneof![1.0..1e6_f64, 0.0..3.0_f64, -1e4..1e4_f64]),
            errors in prop::array::uniform4(prop::sample::select(&[0.0, 0.0081, 0.01, 0.0163][..])),
            off in prop::array::uniform4(prop_oneof![-1.0..1.0_f64, Just(1.0), Just(-1.0)]),
            deviations in 1.0..5.0_f64,
        ) {
            let metric = metric(expression);
            let relative = |part: usize| errors[part] * deviations;
            let estimates: Vec<Option<f64>> = (0..4).map(|part| Some(truths[part] * (1.0 + off[part] * relative(part)))).collect();
            let truth = metric.value(&truths.map(Some));
            let (Some(estimate), Some(truth)) = (metric.value(&estimates), truth) else { return Ok(()) };
            let bounds = metric.bounds(&estimates, relative);
            let margin = bounds.margin(Some(estimate));
            // Rounding: cancellation loses digits of the largest number on the way.
            let rounding = 1e-9 * (1.0 + estimate.abs().max(truth.abs()));
            if let Some(absolute) = margin.absolute {
                let largest = estimates.iter().flatten().fold(1.0_f64, |most, value| most.max(value.abs()));
                prop_assume!(absolute < 1e12 && largest < 1e8);
                prop_assert!((estimate - truth).abs() <= absolute * (1.0 + 1e-9) + rounding, "{estimate} {truth} {margin:?}");
            }
            if let Some(relative) = margin.relative {
                prop_assert!((estimate - truth).abs() <= relative * truth.abs() * (1.0 + 1e-9) + rounding, "{estimate} {truth} {margin:?}");
            }
        }
    }

    #[test]
    fn a_difference_of_estimates_is_further_off_than_either() {
        let [left, right] = [300_000.0, 297_000.0].map(|users| Interval::of_estimate(users, 0.0081));
        let margin = left.with(Operation::Subtract, right).unwrap().margin(3_000.0);
        // 0.0081 of both, about, and as much as the difference: that may be 0.
        assert!((margin.absolute.unwrap() - 4_836.0).abs() < 25.0 && margin.relative.is_none(), "{margin:?}");
        let small = Interval::of_estimate(1_000.0, 0.0081);
        let margin = left.with(Operation::Subtract, small).unwrap().margin(299_000.0);
        assert!((0.0081..0.0083).contains(&margin.relative.unwrap()), "{margin:?}");
    }

    #[test]
    fn a_quotient_adds_relative_errors_and_may_have_no_bound() {
        let [left, right] = [500.0, 1_000.0].map(|users| Interval::of_estimate(users, 0.01));
        let margin = left.with(Operation::Divide, right).unwrap().margin(0.5);
        assert!((0.02..0.0203).contains(&margin.relative.unwrap()), "{margin:?}");
        let near = left.with(Operation::Subtract, Interval::exact(500.0)).unwrap();
        assert_eq!(right.with(Operation::Divide, near), None);
        assert_eq!(Bounds::Unknown.margin(Some(3.0)), Margin { relative: None, absolute: None });
        assert_eq!(Bounds::Unknown.margin(None), Margin::NONE);
    }

    #[test]
    fn what_is_exact_stays_so_and_constants_scale() {
        let half = Interval::exact(1.0).with(Operation::Divide, Interval::exact(2.0)).unwrap();
        assert_eq!(half.margin(0.5), Margin::NONE);
        let nothing = Interval::exact(3.0).with(Operation::Subtract, Interval::exact(3.0)).unwrap();
        assert_eq!(nothing.margin(0.0), Margin::NONE);
        let doubled = Interval::of_estimate(100.0, 0.01).with(Operation::Multiply, Interval::exact(-2.0)).unwrap();
        assert!((doubled.margin(-200.0).relative.unwrap() - 0.01).abs() < 1e-12, "{doubled:?}");
    }

    #[test]
    fn a_change_is_off_by_percentage_points() {
        let now = Interval::of_estimate(110.0, 0.01);
        let change = now.change_percent(Interval::of_estimate(100.0, 0.01)).unwrap().margin(10.0);
        assert!((2.1..2.3).contains(&change.absolute.unwrap()), "{change:?}");
        assert_eq!(now.change_percent(Interval { low: -1.0, high: 1.0 }), None);
        let fall = Interval::exact(-50.0).change_percent(Interval::exact(-100.0)).unwrap();
        assert_eq!(fall, Interval::exact(50.0));
    }
}
