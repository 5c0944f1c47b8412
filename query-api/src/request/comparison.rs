//! The comparison that a query asks for.

use serde::Serialize;

/// How much of the period before is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparedSpan {
    /// As much as has passed of the period.
    Equal,
    /// The period before from its start to its end.
    Whole,
}

impl ComparedSpan {
    /// The values of `span`.
    pub const NAMES: [(&'static str, Self); 2] = [("equal", Self::Equal), ("whole", Self::Whole)];

    /// Its name in `span`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Whole => "whole",
        }
    }
}
