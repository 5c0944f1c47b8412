//! The definition of a metric: measures of events under conditions, and the expression over them.

use serde::Serialize;

use super::interval::{Bounds, Interval};
use super::{Measure, Metric, Nature};
use crate::condition::{Condition, Field};
use crate::time::Granularity;

/// A metric, built in or registered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Definition {
    pub name: String,
    /// Raised by every change; 0 for the built-in ones.
    pub version: u32,
    pub parts: Vec<FormulaPart>,
    /// What is computed from it.
    pub expression: Expression,
    /// The only granularity that its name allows, or `None` for any.
    pub granularity: Option<Granularity>,
}

/// A measure of the events that pass a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FormulaPart {
    pub measure: Measure,
    pub condition: Condition,
}

/// A value from parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expression {
    /// A part, by its place.
    Part(usize),
    /// A number.
    Number(f64),
    /// Two values and what is done with them.
    Of(Operation, Box<Expression>, Box<Expression>),
}

/// What is done with two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`; by nothing it is nothing.
    Divide,
}

impl Definition {
    /// The definition of a built-in metric.
    pub fn built_in(metric: Metric) -> Self {
        let condition = match metric.event_type {
            Some(name) => Condition::is(Field::EventType, [name.to_owned()]),
            None => Condition::always(),
        };
        Self {
            name: metric.name.to_owned(),
            version: 0,
            parts: vec![FormulaPart { measure: metric.measure, condition }],
            expression: Expression::Part(0),
            granularity: metric.granularity,
        }
    }

    /// Its value, from those of its parts.
    pub fn value(&self, parts: &[Option<f64>]) -> Option<f64> {
        self.expression.value(parts)
    }

    /// What is known of the true value, when the part at each place is off by at most `relative` of its own true value.
    pub fn bounds(&self, parts: &[Option<f64>], relative: impl Fn(usize) -> f64) -> Bounds {
        let estimate = |(place, value): (usize, &Option<f64>)| match (*value, relative(place)) {
            (Some(value), 0.0) => Some(Interval::exact(value)),
            (value, relative) => value.map(|value| Interval::of_estimate(value, relative)),
        };
        if self.value(parts).is_none() || (0..parts.len()).all(|place| relative(place) == 0.0) {
            return Bounds::Exact;
        }
        let estimates: Vec<Option<Interval>> = parts.iter().enumerate().map(estimate).collect();
        self.expression.interval(&estimates).map_or(Bounds::Unknown, Bounds::Within)
    }

    /// What its values are like.
    pub fn nature(&self) -> Nature {
        let parts: Vec<Option<f64>> = self.parts.iter().map(|part| part.measure.of_nothing()).collect();
        Nature { of_nothing: self.value(&parts), is_count: self.is_count() }
    }

    /// Whether its values are whole numbers.
    pub fn is_count(&self) -> bool {
        match (&self.expression, self.parts.as_slice()) {
            (Expression::Part(_), [part]) => part.measure.is_count(),
            _ => false,
        }
    }
}

impl Expression {
    fn value(&self, parts: &[Option<f64>]) -> Option<f64> {
        match self {
            Self::Part(place) => parts.get(*place).copied().flatten(),
            Self::Number(number) => Some(*number),
            Self::Of(operation, left, right) => {
                let (left, right) = (left.value(parts)?, right.value(parts)?);
                let value = match operation {
                    Operation::Add => left + right,
                    Operation::Subtract => left - right,
                    Operation::Multiply => left * right,
                    Operation::Divide => left / right,
                };
                value.is_finite().then_some(value)
            }
        }
    }

    fn interval(&self, parts: &[Option<Interval>]) -> Option<Interval> {
        match self {
            Self::Part(place) => parts.get(*place).copied().flatten(),
            Self::Number(number) => Some(Interval::exact(*number)),
            Self::Of(operation, left, right) => left.interval(parts)?.with(*operation, right.interval(parts)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_of_nothing_is_nothing() {
        let part = |place| Box::new(Expression::Part(place));
        let ratio = Expression::Of(Operation::Divide, part(0), part(1));
        assert_eq!(ratio.value(&[Some(1.0), Some(4.0)]), Some(0.25));
        assert_eq!(ratio.value(&[Some(1.0), Some(0.0)]), None);
        assert_eq!(ratio.value(&[Some(1.0), None]), None);
        assert_eq!(ratio.value(&[]), None);
    }
}
