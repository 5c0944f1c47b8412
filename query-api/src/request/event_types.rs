//! The parameters of `GET /v1/event-types`: `startTime`, `endTime` (the last 30 days without either), `eventType`, `limit`,
//! `properties` (`sampled`, `none`) and `timezone` (in which dates are read and times written).

use std::collections::BTreeSet;

use super::error::quoted;
use super::{BadRequest, Params, Window, values};
use crate::time::{DAY, Zone};

/// Parameters of `GET /v1/event-types`.
pub const EVENT_TYPES_PARAMS: &[&str] = &["startTime", "endTime", "eventType", "limit", "properties", "timezone"];

/// The range without `startTime` and `endTime`, in seconds: what is sent weekly or monthly is in it.
const DEFAULT_SECONDS: i64 = 30 * DAY;

/// Types that are listed at most.
pub const MOST_LISTED: u32 = 1_000;

/// Event types without `limit`.
const DEFAULT_LIMIT: u32 = 100;

/// What is asked of the types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypesQuery {
    /// When the events happened.
    pub window: Window,
    /// The one type asked for; `None` for all.
    pub event_type: Option<String>,
    /// The most, those with most events first.
    pub limit: u32,
    /// Whether raw events are looked at for properties.
    pub properties: Properties,
    /// The zone in which dates are read and times written.
    pub zone: Zone,
}

/// Whether properties are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Properties {
    /// Those of a sample of raw events.
    Sampled,
    /// None: only what rollups and declarations tell.
    None,
}

impl EventTypesQuery {
    /// The question of a query string, asked at `now_ms`.
    pub fn parse(params: &Params, now_ms: i64) -> Result<Self, BadRequest> {
        let zone = values::zone_parameter(params)?;
        let window = match (params.get("startTime"), params.get("endTime")) {
            (None, None) => Window::Last { seconds: DEFAULT_SECONDS },
            (start, end) => Window::parse(start, end, &zone, now_ms)?,
        };
        Ok(Self {
            window,
            event_type: values::event_type_parameter(params)?,
            limit: limit(params)?,
            properties: properties(params)?,
            zone,
        })
    }

    /// The type that the caller named.
    pub fn event_types(&self) -> BTreeSet<String> {
        self.event_type.iter().cloned().collect()
    }
}

fn limit(params: &Params) -> Result<u32, BadRequest> {
    let Some(text) = params.get("limit") else { return Ok(DEFAULT_LIMIT) };
    text.parse().ok().filter(|limit| (1..=MOST_LISTED).contains(limit)).ok_or_else(|| BadRequest::Malformed {
        parameter: "limit",
        given: quoted(text),
        expected: format!("a number of event types from 1 to {MOST_LISTED}"),
    })
}

fn properties(params: &Params) -> Result<Properties, BadRequest> {
    match params.get("properties") {
        None | Some("sampled") => Ok(Properties::Sampled),
        Some("none") => Ok(Properties::None),
        Some(other) => Err(BadRequest::Malformed {
            parameter: "properties",
            given: quoted(other),
            expected: "sampled or none".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_errors_name_them() {
        let parse = |raw: &str| EventTypesQuery::parse(&Params::parse(Some(raw), EVENT_TYPES_PARAMS).unwrap(), 0);
        let query = parse("").unwrap();
        assert_eq!((query.window, query.limit), (Window::Last { seconds: 30 * DAY }, 100));
        assert_eq!(parse("properties=none&limit=1000").unwrap().properties, Properties::None);
        for (raw, expected) in [
            ("limit=0", "`limit`: `0` is not a number of event types from 1 to 1000"),
            ("limit=1001", "`limit`"),
            ("properties=all", "`properties`: `all` is not sampled or none"),
            ("startTime=x", "`startTime`"),
            ("timezone=Berln", "did you mean Europe/Berlin?"),
        ] {
            let error = parse(raw).unwrap_err().to_string();
            assert!(error.contains(expected), "{raw}: {error}");
        }
    }
}
