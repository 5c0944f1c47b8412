//! A question as it came, without who asked: enough to ask it again.

use serde::{Deserialize, Serialize};

/// Longer ones are not written down.
const MAX_BYTES: usize = 8 << 10;

/// What was asked. Written into ClickHouse: fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "path", rename_all = "snake_case")]
pub enum Asked {
    /// `GET /v1/metrics/{name}`
    Metric { name: String, params: String },
    /// `GET /v1/reports/daily`
    Daily { params: String },
    /// `GET /v1/metrics/{name}/anomalies`
    Anomalies { name: String, params: String },
    /// `GET /v1/event-types`
    EventTypes { params: String },
    /// `POST /v1/query`
    Document { body: String },
}

impl Asked {
    /// As it is kept; `None` for one that is too long.
    pub fn text(&self) -> Option<String> {
        serde_json::to_string(self).ok().filter(|text| text.len() <= MAX_BYTES)
    }

    /// What [`Self::text`] wrote, unless a newer version did.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_written() {
        let params = "granularity=hour&filter=country:DE%2CFR".to_owned();
        for asked in [
            Asked::Metric { name: "events".to_owned(), params: params.clone() },
            Asked::Daily { params },
            Asked::Document { body: r#"{"metrics":["events"]}"#.to_owned() },
        ] {
            assert_eq!(Asked::read(&asked.text().unwrap()), Some(asked));
        }
        assert_eq!(Asked::Document { body: "x".repeat(MAX_BYTES) }.text(), None);
        assert_eq!(Asked::read(r#"{"path":"of_a_newer_version"}"#), None);
    }
}
