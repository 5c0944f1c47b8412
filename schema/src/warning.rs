//! Warnings about accepted events: something was changed, or is not counted as was probably meant.

use crate::dimension::{MAX_VALUE_BYTES, OTHER};
use crate::json_schema::Violation;
use crate::limits::{
    DAY_MS, MAX_EVENT_WARNINGS, MAX_FUTURE_MS, MAX_SENT_AHEAD_MS, MAX_SENT_BEFORE_MS, MAX_VALUE, MIN_VALUE,
};

/// Something that was changed or not understood in an event that is accepted. `code` is stable and of low cardinality;
/// `Display` tells the sender what happened and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The time was too far in the future and was replaced by the time of receipt.
    #[error(
        "`timestamp` is more than {} minutes in the future: the event counts at the time of receipt; check the sender's clock",
        MAX_FUTURE_MS / 60_000
    )]
    FutureTime,
    /// A text was longer than is kept.
    #[error("`{field}` was cut to {most} bytes; send a shorter text")]
    TextCut {
        /// The field, or the property's name after flattening.
        field: String,
        /// Bytes that are kept.
        most: usize,
    },
    /// A property's name was longer than is kept.
    #[error("a property's name was cut to {most} bytes, to `{field}`; send a shorter name or nest less deeply")]
    NameCut {
        /// What is left of it.
        field: String,
        /// Bytes that are kept.
        most: usize,
    },
    /// Characters that break whatever prints or exports them were taken out: NUL, and of ids all control characters.
    #[error("control characters were removed from `{field}`; send it without them")]
    RemovedControls {
        /// The field, or the property's name after flattening.
        field: String,
    },
    /// A field of an event beside `events`.
    #[error("`{field}` beside `events` is not read; put it into each event")]
    IgnoredField {
        /// The field of the event that it is about.
        field: &'static str,
    },
    /// `context.ip` is not an address.
    #[error("`context.ip` is not an IP address and was dropped; send an IPv4 or IPv6 address without a port")]
    BadIp,
    /// Broken UTF-8 or half a surrogate pair.
    #[error("broken UTF-8 or half a surrogate pair was replaced by U+FFFD{}; send UTF-8", within(field.as_deref()))]
    RepairedText {
        /// The field, or the property's name after flattening; `None` for what is not kept.
        field: Option<String>,
    },
    /// A value property that is no number.
    #[error(
        "`{field}` is not counted as the event's value, because it is {found}; send a number, or plain decimal text such as \"12.50\" (no comma, currency or exponent)"
    )]
    ValueNotANumber {
        /// The property that the value was taken from.
        field: String,
        /// What stands there, quoted and cut, or the kind of it.
        found: String,
    },
    /// A value property beyond [`MAX_VALUE`].
    #[error(
        "`{field}` is not counted as the event's value, because it is beyond ±{MAX_VALUE:e}; the property is kept as sent"
    )]
    ValueTooLarge {
        /// The property that the value was taken from.
        field: String,
    },
    /// A value property closer to 0 than [`MIN_VALUE`].
    #[error("`{field}` counts as 0, because it is closer to 0 than {MIN_VALUE:e}; the property is kept as sent")]
    ValueTooSmall {
        /// The property that the value was taken from.
        field: String,
    },
    /// A number since 1970 in another unit than milliseconds.
    #[error("`{field}` was read as {unit} since 1970; send milliseconds or RFC 3339")]
    ConvertedTime {
        /// The field of the event that it is about.
        field: &'static str,
        /// The unit that its size tells.
        unit: &'static str,
    },
    /// `sentAt` cannot be when the event was sent.
    #[error(
        "`sentAt` was ignored: it is no time, more than {} days before or {} hours after the time of receipt, or before the event \
         happened",
        MAX_SENT_BEFORE_MS / DAY_MS,
        MAX_SENT_AHEAD_MS / 3_600_000
    )]
    IgnoredSentAt,
    /// A dimension's value is not counted as it was given.
    #[error(
        "`{field}` is counted without control characters and cut to {MAX_VALUE_BYTES} bytes; send a shorter, printable value"
    )]
    ChangedDimension {
        /// The dimension whose value was changed.
        field: String,
    },
    /// Two different values for one name.
    #[error("`{field}` was given more than once and only one value is kept; give each name once")]
    NameCollision {
        /// The field, or the property's name after flattening.
        field: String,
    },
    /// Not as the schema of its type says, which is only reported.
    #[error("the event violates the schema of its type, which is not enforced yet: {0}")]
    SchemaViolation(Violation),
    /// The project has too many types of event within the hour.
    #[error(
        "`eventType` is counted as {OTHER}: the project has too many types within this hour; send what varies as a property"
    )]
    TooManyEventTypes,
}

impl Warning {
    /// The code of violations that are reported.
    pub const SCHEMA_VIOLATION: &'static str = "schema_violation";

    /// For programs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::FutureTime => "future_time",
            Self::TextCut { .. } => "text_cut",
            Self::NameCut { .. } => "name_cut",
            Self::RemovedControls { .. } => "removed_controls",
            Self::IgnoredField { .. } => "ignored_field",
            Self::BadIp => "bad_ip",
            Self::RepairedText { .. } => "repaired_text",
            Self::ValueNotANumber { .. } => "value_not_a_number",
            Self::ValueTooLarge { .. } | Self::ValueTooSmall { .. } => "value_out_of_range",
            Self::ConvertedTime { .. } => "converted_time",
            Self::IgnoredSentAt => "ignored_sent_at",
            Self::ChangedDimension { .. } => "changed_dimension",
            Self::NameCollision { .. } => "name_collision",
            Self::SchemaViolation(_) => Self::SCHEMA_VIOLATION,
            Self::TooManyEventTypes => "too_many_event_types",
        }
    }

    /// The field that it is about.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::FutureTime => Some("timestamp"),
            Self::TextCut { field, .. }
            | Self::NameCut { field, .. }
            | Self::RemovedControls { field }
            | Self::ValueNotANumber { field, .. }
            | Self::ValueTooLarge { field }
            | Self::ValueTooSmall { field }
            | Self::ChangedDimension { field }
            | Self::NameCollision { field } => Some(field),
            Self::ConvertedTime { field, .. } | Self::IgnoredField { field } => Some(field),
            Self::IgnoredSentAt => Some("sentAt"),
            Self::SchemaViolation(violation) => Some(&violation.pointer),
            Self::BadIp => Some("context.ip"),
            Self::TooManyEventTypes => Some("eventType"),
            Self::RepairedText { field } => field.as_deref(),
        }
    }
}

fn within(field: Option<&str>) -> String {
    field.map_or_else(String::new, |field| format!(" in `{field}`"))
}

/// The warnings of one event. At most [`MAX_EVENT_WARNINGS`] are kept; of the others only the codes, which are counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Warnings {
    kept: Vec<Warning>,
    others: Vec<&'static str>,
}

impl Warnings {
    /// Keeps a warning, or of those beyond the bound its code.
    pub fn add(&mut self, warning: Warning) {
        if self.kept.len() < MAX_EVENT_WARNINGS {
            self.kept.push(warning);
        } else {
            self.others.push(warning.code());
        }
    }

    /// The codes of all, also of those that are not kept.
    pub fn codes(&self) -> impl Iterator<Item = &'static str> {
        self.kept.iter().map(Warning::code).chain(self.others.iter().copied())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Those that are kept, and how many are not.
    pub fn into_parts(self) -> (Vec<Warning>, usize) {
        (self.kept, self.others.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_first_are_kept() {
        let mut warnings = Warnings::default();
        for _ in 0..MAX_EVENT_WARNINGS {
            warnings.add(Warning::BadIp);
        }
        warnings.add(Warning::FutureTime);
        assert_eq!(warnings.codes().filter(|code| *code == "future_time").count(), 1);
        let (kept, others) = warnings.into_parts();
        assert_eq!((kept.len(), others), (MAX_EVENT_WARNINGS, 1));
    }
}
