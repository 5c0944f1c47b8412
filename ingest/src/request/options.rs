//! What the query string of a request asks for.

use axum::http::Uri;

use super::error::RequestError;

/// What is asked for in the query string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestOptions {
    /// What the answer waits for.
    pub wait: Wait,
    /// What becomes of events that are refused.
    pub dead_letters: DeadLetters,
}

/// Whether refused events become dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetters {
    /// As the project's settings say.
    AsSet,
    /// No: these events are dead letters already, and are being sent again.
    None,
}

/// When a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// 202 as soon as the events are durable.
    Durable,
    /// 200 when the rollups show them. Directly the two are one moment, unless ClickHouse is away: then the disk comes first.
    Stored,
}

impl IngestOptions {
    /// From the query string, which may hold nothing else.
    pub fn of(uri: &Uri) -> Result<Self, RequestError> {
        let mut options = Self { wait: Wait::Durable, dead_letters: DeadLetters::AsSet };
        for parameter in uri.query().unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter {
                "wait=stored" => options.wait = Wait::Stored,
                "letters=none" => options.dead_letters = DeadLetters::None,
                other => return Err(RequestError::UnknownParameter(other.chars().take(100).collect())),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_documented_parameters_are_taken() {
        let options =
            |uri: &str| IngestOptions::of(&uri.parse().unwrap()).map(|options| (options.wait, options.dead_letters));
        assert_eq!(options("/v1/events"), Ok((Wait::Durable, DeadLetters::AsSet)));
        assert_eq!(options("/v1/events?wait=stored"), Ok((Wait::Stored, DeadLetters::AsSet)));
        assert_eq!(options("/v1/events?letters=none&wait=stored"), Ok((Wait::Stored, DeadLetters::None)));
        assert_eq!(options("/v1/events?wait=durable"), Err(RequestError::UnknownParameter("wait=durable".into())));
    }
}
