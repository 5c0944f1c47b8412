//! `GET /v1/export`: a project's raw events, streamed.
//!
//! Parameters: `startTime`, `endTime` (at most a year, the last day by default), `eventType`, `format` (`ndjson`, `csv`,
//! `parquet`), `timezone` (in which dates are read and, as text, times written; Parquet holds instants in UTC) and `int64`
//! ([`super::int64`]). Each event once, in no particular order.
//!
//! Columns: `event_id`, `event_type`, `ts` (event time, RFC 3339), `value` (number or null), `user_id`, `anonymous_id`,
//! `session_id`, `country`, `device`, `os`, `browser`, `locale`, `page`, `ip` (masked), `props` and `num_props` (objects;
//! JSON text in CSV), `original_ts` (as the client gave it), `received_at`.

use tallyhouse_sql::clickhouse::query::BytesCursor;
use tallyhouse_sql::{Class, StoreError};

use super::int64::{INT64, Int64};
use super::local_times::{LocalTimes, Rows};
use super::shape::{Form, Shape};
use super::statements::{EXPORT_SETTINGS, export, format_settings};
use super::stream::Outgoing;
use super::{Adhoc, AdhocError, DEADLINE};
use crate::authorize::Scope;
use crate::request::error::quoted;
use crate::request::{BadRequest, Params, Window, values};
use crate::serve::{App, Asking};
use crate::store::{HeldPermit, ReadError};
use crate::time::Zone;
use crate::warning::Warning;

/// Parameters of an export.
pub const EXPORT_PARAMS: &[&str] = &["startTime", "endTime", "eventType", "format", "timezone", INT64];

/// When a ClickHouse that has too much to do may be asked again, in seconds.
const OVERLOAD_RETRY_S: u32 = 5;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object with columns and rows. Not for exports.
    Json,
    /// A JSON object a line.
    Ndjson,
    /// RFC 4180 with a header.
    Csv,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The format of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Json, Self::Ndjson, Self::Csv, Self::Parquet].into_iter().find(|format| format.name() == name)
    }

    /// As in `format=`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }

    /// ClickHouse's name of it.
    pub const fn clickhouse(self) -> &'static str {
        match self {
            Self::Json => "JSONCompactEachRowWithNamesAndTypes",
            Self::Ndjson => "JSONEachRow",
            Self::Csv => "CSVWithNames",
            Self::Parquet => "Parquet",
        }
    }

    /// `Content-Type`
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// What is exported.
#[derive(Debug, Clone)]
pub struct ExportAsk {
    /// From this second on.
    pub from_s: i64,
    /// Until before this one.
    pub to_s: i64,
    /// Only these.
    pub event_type: Option<String>,
    /// How it is written.
    pub format: Format,
    /// Where times are told.
    pub zone: Zone,
    /// How integers of 64 bits are written.
    pub int64: Int64,
}

impl ExportAsk {
    /// Reads a query string.
    pub fn parse(raw: Option<&str>, now_ms: i64) -> Result<Self, BadRequest> {
        let params = Params::parse(raw, EXPORT_PARAMS)?;
        let zone = values::zone_parameter(&params)?;
        let window = Window::parse(params.get("startTime"), params.get("endTime"), &zone, now_ms)?;
        let (from_s, to_s) = window.bounds(now_ms);
        let event_type = values::event_type_parameter(&params)?;
        let (format, int64) = (format(params.get("format"))?, Int64::parameter(&params)?.unwrap_or_default());
        Ok(Self { from_s, to_s, event_type, format, zone, int64 })
    }

    fn shape(&self) -> Shape {
        let local = |rows| Form::Local(Box::new(LocalTimes::new(rows, self.zone.clone())));
        match self.format {
            Format::Parquet => Shape::Binary,
            _ if self.zone.is_utc() => Shape::text(Form::AsIs),
            Format::Csv => Shape::text(local(Rows::Csv)),
            Format::Json | Format::Ndjson => Shape::text(local(Rows::Ndjson)),
        }
    }
}

fn format(given: Option<&str>) -> Result<Format, BadRequest> {
    let Some(name) = given else { return Ok(Format::Ndjson) };
    Format::named(name).filter(|format| *format != Format::Json).ok_or_else(|| BadRequest::Malformed {
        parameter: "format",
        given: quoted(name),
        expected: "ndjson, csv or parquet".to_owned(),
    })
}

/// An export that has begun.
pub struct Exported {
    /// How it is written.
    pub format: Format,
    /// What follows as the client reads it.
    pub outgoing: Outgoing,
    /// What the caller should know of the question.
    pub warnings: Vec<Warning>,
}

/// Answers a request, up to the first byte; the rest follows as the client reads it.
pub async fn answer(
    app: &App,
    adhoc: &Adhoc,
    Asking { scope, raw, came, .. }: Asking<'_>,
) -> Result<Exported, AdhocError> {
    let deadline = came + DEADLINE;
    let ask = ExportAsk::parse(raw, (app.clock)())?;
    let permit = adhoc.exports.take(scope.project()).await.map_err(ReadError::from)?;
    let watched = app.sources.store.watch(HeldPermit::Export(permit), &adhoc.reader);
    let mut cursor = begin(adhoc, &ask, &scope, watched.query_id()).map_err(|error| failed(&error))?;
    let asked = ask.event_type.iter().cloned().collect();
    let (first, warnings) = tokio::join!(
        tokio::time::timeout_at(deadline, cursor.next()),
        app.event_types.warnings(scope.project(), &asked, deadline)
    );
    let first = match first {
        Ok(Ok(first)) => first,
        Ok(Err(error)) => {
            let error = StoreError::from(error);
            watched.failed(&error);
            return Err(failed(&error));
        }
        Err(_) => return Err(watched.timed_out().into()),
    };
    let (limits, shape, metrics) = (adhoc.export_limits, ask.shape(), adhoc.metrics.clone());
    let outgoing = Outgoing { first, cursor, shape, watched: Some(watched), permit: None, limits, metrics };
    Ok(Exported { format: ask.format, outgoing, warnings })
}

fn begin(adhoc: &Adhoc, ask: &ExportAsk, scope: &Scope, query_id: &str) -> Result<BytesCursor, StoreError> {
    let statement = export(ask, scope.project());
    let query = adhoc.reader.query(&statement.text).with_setting("query_id", query_id);
    let query = statement.params.iter().fold(query, |query, (name, value)| query.param(name, value));
    let settings = EXPORT_SETTINGS.iter().chain(format_settings(ask.format)).chain(ask.int64.settings(ask.format));
    let query = settings.fold(query, |query, (name, value)| query.with_setting(*name, *value));
    query.fetch_bytes(ask.format.clickhouse()).map_err(StoreError::from)
}

fn failed(error: &StoreError) -> AdhocError {
    match error.class() {
        Class::Transient => ReadError::Unavailable.into(),
        Class::Overloaded => ReadError::Overloaded { retry_after_s: OVERLOAD_RETRY_S }.into(),
        Class::TooExpensive => {
            AdhocError::Limit { limit: "rows read or memory", fits: "ask for a shorter range or one event type" }
        }
        Class::Permanent => ReadError::Failed.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_178_096_789;

    #[test]
    fn parameters_are_read_and_errors_name_them() {
        let ask =
            ExportAsk::parse(Some("startTime=2026-11-01&endTime=2026-11-02&timezone=Europe/Berlin"), NOW).unwrap();
        assert_eq!((ask.to_s - ask.from_s, ask.format), (86_400, Format::Ndjson));
        let last = ExportAsk::parse(None, NOW).unwrap();
        assert_eq!(last.to_s - last.from_s, 86_400);
        for (query, expected) in [
            ("format=json", "`format`: `json` is not ndjson, csv or parquet"),
            ("timezone=Berln", "did you mean Europe/Berlin?"),
            ("eventtype=a", "did you mean eventType?"),
            ("startTime=2024-01-01", "at most 366 are answered at once"),
            ("int64=text", "`int64`: `text` is not number or string"),
        ] {
            let error = ExportAsk::parse(Some(query), NOW).unwrap_err().to_string();
            assert!(error.contains(expected), "{query}: {error}");
        }
        assert!(ExportAsk::parse(Some(&format!("eventType={}", "x".repeat(201))), NOW).is_err());
    }

    #[test]
    fn nothing_from_a_request_is_in_the_text() {
        for format in ["ndjson", "csv", "parquet"] {
            let query = format!("eventType=x'+OR+1&timezone=Europe/Berlin&format={format}");
            let statement = export(&ExportAsk::parse(Some(&query), NOW).unwrap(), "p'1");
            assert!(!statement.text.contains("OR 1") && !statement.text.contains("p'1"), "{}", statement.text);
            for (name, _) in &statement.params {
                assert!(statement.text.contains(&format!("{{{name}:")), "{name} is not used");
            }
        }
    }
}
