//! A schema, or the part of it that is about one value, as the crate `jsonschema` checks it.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, ValidationError, Validator};
use serde_json::Value;

use super::formats::Format;
use super::violation::{Violations, excerpt};
use super::{Fault, patterns, pointer};
use crate::property::Property;

/// A compiled validator.
#[derive(Debug)]
pub(super) struct Whole(Validator);

impl Whole {
    /// Compiles a schema that is within its bounds. `place` is where it stands in the document.
    pub(super) fn compile(expanded: &Value, place: &str) -> Result<Self, Fault> {
        let mut options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(patterns::options())
            .should_validate_formats(true);
        for format in Format::ALL {
            options = options.with_format(format.name(), move |text: &str| format.holds(text));
        }
        let fault =
            |error: ValidationError<'_>| Fault::at(format!("{place}{}", error.instance_path()), error.to_string());
        options.build(expanded).map(Self).map_err(fault)
    }

    /// Checks the properties of an event.
    pub(super) fn check(&self, object: &Value, properties: &[Property<'_>], violations: &mut Violations) {
        self.each(object, violations, |pointer| pointer::in_event(pointer, properties));
    }

    /// Checks one value; `within` gives the pointer of what is in it.
    pub(super) fn each(&self, value: &Value, violations: &mut Violations, within: impl Fn(&str) -> String) {
        if self.0.is_valid(value) {
            return;
        }
        for error in self.0.iter_errors(value) {
            let (inner, expected, found) = told(&error);
            violations.add(|| within(&inner), &expected, || found);
            // No more is looked for than is listed: each costs.
            if violations.is_full() {
                return;
            }
        }
    }
}

/// Where, what was expected, and what came.
fn told(error: &ValidationError<'_>) -> (String, String, String) {
    let at = error.instance_path().to_string();
    let absent = || "not there".to_owned();
    let expected = match error.kind() {
        ValidationErrorKind::Required { property } => {
            return (pointer::below(&at, property.as_str().unwrap_or_default()), "there".to_owned(), absent());
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let name = unexpected.first().map_or("", String::as_str);
            let found = error.instance().get(name).map_or_else(absent, excerpt);
            return (pointer::below(&at, name), "absent: the schema does not name it".to_owned(), found);
        }
        ValidationErrorKind::Type { kind } => match kind {
            jsonschema::error::TypeKind::Single(kind) => kind.to_string(),
            jsonschema::error::TypeKind::Multiple(kinds) => {
                kinds.iter().map(|kind| kind.to_string()).collect::<Vec<_>>().join(" or ")
            }
        },
        ValidationErrorKind::Enum { options } => format!("one of {options}"),
        ValidationErrorKind::Constant { expected_value } => expected_value.to_string(),
        ValidationErrorKind::Minimum { limit } => format!("at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("at most {limit}"),
        ValidationErrorKind::ExclusiveMinimum { limit } => format!("more than {limit}"),
        ValidationErrorKind::ExclusiveMaximum { limit } => format!("less than {limit}"),
        ValidationErrorKind::MultipleOf { multiple_of } => format!("a multiple of {multiple_of}"),
        ValidationErrorKind::MinLength { limit } => format!("of at least {limit} characters"),
        ValidationErrorKind::MaxLength { limit } => format!("of at most {limit} characters"),
        ValidationErrorKind::Pattern { pattern } => format!("text that matches {pattern}"),
        ValidationErrorKind::Format { format } => format!("of the format {format}"),
        ValidationErrorKind::MinItems { limit } => format!("of at least {limit} items"),
        ValidationErrorKind::MaxItems { limit } => format!("of at most {limit} items"),
        ValidationErrorKind::MinProperties { limit } => format!("of at least {limit} properties"),
        ValidationErrorKind::MaxProperties { limit } => format!("of at most {limit} properties"),
        ValidationErrorKind::UniqueItems => "without equal items".to_owned(),
        ValidationErrorKind::Contains => "with an item that matches `contains`".to_owned(),
        ValidationErrorKind::FalseSchema => "absent".to_owned(),
        ValidationErrorKind::AnyOf { .. } => "as one of `anyOf` says".to_owned(),
        ValidationErrorKind::OneOfNotValid { .. } => "as one of `oneOf` says".to_owned(),
        ValidationErrorKind::OneOfMultipleValid { .. } => "as exactly one of `oneOf` says".to_owned(),
        ValidationErrorKind::Not { .. } => "other than `not` says".to_owned(),
        ValidationErrorKind::PropertyNames { .. } => "with names as `propertyNames` says".to_owned(),
        other => format!("as `{}` says", other.keyword()),
    };
    (at, expected, excerpt(error.instance()))
}
