//! The options in the query string of a request.

use axum::http::Uri;

use super::error::RequestError;

/// The options of a request, from its query string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestOptions {
    /// `wait=stored`
    pub wait: Wait,
    /// Whether rejected events become dead letters, if the project's settings ask for it. `dead_letters=off` says no: the events are dead
    /// letters already, and are being replayed.
    pub keeps_dead_letters: bool,
}

/// What the answer to a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// 202 as soon as the events are durable.
    Durable,
    /// 200 as soon as the rollups show them.
    Stored,
}

impl IngestOptions {
    /// From the query string, which may hold nothing else.
    pub fn of(uri: &Uri) -> Result<Self, RequestError> {
        let mut options = Self { wait: Wait::Durable, keeps_dead_letters: true };
        for parameter in uri.query().unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter {
                "wait=stored" => options.wait = Wait::Stored,
                // The second spelling is deprecated.
                "dead_letters=off" | "letters=none" => options.keeps_dead_letters = false,
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
        let options = |uri: &str| {
            IngestOptions::of(&uri.parse().unwrap()).map(|options| (options.wait, options.keeps_dead_letters))
        };
        assert_eq!(options("/v1/events"), Ok((Wait::Durable, true)));
        assert_eq!(options("/v1/events?wait=stored"), Ok((Wait::Stored, true)));
        assert_eq!(options("/v1/events?dead_letters=off&wait=stored"), Ok((Wait::Stored, false)));
        assert_eq!(options("/v1/events?wait=durable"), Err(RequestError::UnknownParameter("wait=durable".into())));
    }

    #[test]
    fn the_old_spelling_of_dead_letters_is_taken() {
        let uri = "/v1/events?letters=none".parse().unwrap();
        assert!(!IngestOptions::of(&uri).unwrap().keeps_dead_letters);
    }
}
