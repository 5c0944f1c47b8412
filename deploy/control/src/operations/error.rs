//! Why an operation was not done, and what it looks like over HTTP.

use axum::http::StatusCode;
use tallyhouse_schema::project::BadProjectName;
use tallyhouse_service::http::Problem;

use crate::store::ControlError;

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    #[error("this needs a key with the scope `admin`, or an operator's key")]
    Forbidden,
    #[error("this needs an operator's key: `$TALLYHOUSE_DATA/credentials` or the first start has it")]
    OperatorsOnly,
    #[error(transparent)]
    BadName(BadProjectName),
    #[error("there is no {what} `{name}`")]
    NotFound { what: &'static str, name: String },
    #[error("there is a {what} `{name}` already")]
    Exists { what: &'static str, name: String },
    #[error("`{field}` {problem}")]
    Invalid { field: String, problem: String },
    #[error("{what}: {limit} are the most; {instead}")]
    Full { what: &'static str, limit: usize, instead: &'static str },
    #[error("nothing of a project is removed where tables are replicated: revoke its keys instead")]
    Replicated,
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl OperationError {
    pub fn not_found(what: &'static str, name: &str) -> Self {
        Self::NotFound { what, name: short(name) }
    }

    pub fn invalid(field: &str, problem: impl Into<String>) -> Self {
        Self::Invalid { field: short(field), problem: problem.into() }
    }

    /// For programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::OperatorsOnly => "operators_only",
            Self::BadName(_) => "bad_name",
            Self::NotFound { .. } => "not_found",
            Self::Exists { .. } => "exists",
            Self::Invalid { .. } => "invalid",
            Self::Full { .. } => "full",
            Self::Replicated => "replicated",
            Self::Control(ControlError::NotConfigured) => "not_configured",
            Self::Control(ControlError::Conflict { .. }) => "conflict",
            Self::Control(ControlError::TooLarge { .. }) => "too_large",
            Self::Control(ControlError::Unavailable) => "unavailable",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Forbidden | Self::OperatorsOnly => StatusCode::FORBIDDEN,
            Self::BadName(_) | Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Exists { .. } | Self::Full { .. } | Self::Control(ControlError::Conflict { .. }) => {
                StatusCode::CONFLICT
            }
            Self::Control(ControlError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Replicated => StatusCode::NOT_IMPLEMENTED,
            Self::Control(ControlError::NotConfigured | ControlError::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<OperationError> for Problem {
    fn from(error: OperationError) -> Self {
        let problem = Self::new(error.status(), error.code(), error.to_string());
        match &error {
            OperationError::Invalid { field, .. } => problem.with("field", field.as_str()),
            OperationError::Control(ControlError::Conflict { in_force }) => problem.with("in_force", *in_force),
            OperationError::Control(ControlError::Unavailable) => problem.retry_after(2),
            _ => problem,
        }
    }
}

/// A name that somebody sent, for a message.
fn short(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}
