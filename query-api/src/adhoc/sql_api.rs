//! `POST /v1/sql`: `{"sql": "SELECT …", "format": "json"|"csv"|"parquet"|"ndjson", "params": {"name": value},
//! "int64": "number"|"string"}`; `int64` may also be a parameter of the URL.
//!
//! `params` are bound where the statement says `{name:Type}`. A JSON answer is
//! `{"columns":[{"name","type"}],"rows":[[…]],"meta":{"rows","elapsed_ms","truncated"}}`. An answer that is too
//! large is a 422 and never cut, so `truncated` is always false.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use serde_json::{Map, Value};
use tallyhouse_sql::StoreError;

use super::error::of_statement;
use super::export::Format;
use super::int64::{INT64, Int64};
use super::rows::JsonRows;
use super::shape::{Form, Shape};
use super::stream::{Limits, Outgoing};
use super::{Adhoc, AdhocError, sql_allow_list};
use crate::request::body_reading;
use crate::request::error::{did_you_mean, quoted};
use crate::request::suggest::nearest;
use crate::request::unique::{self, Fault};
use crate::request::{BadRequest, Params};
use crate::serve::{App, Asking};
use crate::store::{AdmissionRequest, Class, HeldPermit, ReadError};

/// The longest body in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The longest statement in bytes.
pub const MAX_SQL_BYTES: usize = 10 * 1024;

/// The longest answer in bytes. ClickHouse limits the result to 100 MB; as text it may be longer.
const MAX_ANSWER_BYTES: u64 = 400 << 20;

/// Parameters at most.
const MAX_PARAMS: usize = 100;

const FIELDS: [&str; 4] = ["sql", "format", "params", INT64];

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlRequest {
    /// One statement.
    pub sql: String,
    /// How the answer is written.
    pub format: Format,
    /// Values bound to it.
    pub params: Map<String, Value>,
    /// How integers of 64 bits are written, if it is said.
    pub int64: Option<Int64>,
}

/// A body that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// Another `Content-Type`.
    #[error("send a JSON object with `Content-Type: application/json`")]
    NotJson,
    /// Not JSON.
    #[error("the body is not JSON: {problem}")]
    Syntax {
        /// With the position.
        problem: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("the body is not a JSON object such as {{\"sql\": \"SELECT 1\"}}")]
    NotAnObject,
    /// No field of that name.
    #[error("`{name}` is not a field here{}", did_you_mean(near))]
    UnknownField {
        /// As given, shortened.
        name: String,
        /// Fields that it may have been meant to be.
        near: Vec<String>,
        /// All fields.
        known: &'static [&'static str],
    },
    /// A value that a field cannot have.
    #[error("`{field}`: {problem}")]
    Field {
        /// Its path.
        field: String,
        /// What is wrong and what would do.
        problem: String,
    },
}

impl SqlRequest {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, BadBody> {
        let value = unique::parse(body).map_err(|fault| match fault {
            Fault::Syntax(error) => {
                BadBody::Syntax { problem: error.to_string(), line: error.line(), column: error.column() }
            }
            Fault::Twice { path } => bad(path, "it is given more than once"),
        })?;
        let Value::Object(mut fields) = value else { return Err(BadBody::NotAnObject) };
        if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            return Err(BadBody::UnknownField { name: quoted(name), near: nearest(name, FIELDS), known: &FIELDS });
        }
        Ok(Self {
            sql: sql(fields.remove("sql"))?,
            format: format(fields.remove("format"))?,
            params: params(fields.remove("params"))?,
            int64: int64(fields.remove(INT64))?,
        })
    }

    /// With what the URL says of it.
    fn with_int64(mut self, parameter: Option<Int64>) -> Result<Self, BadRequest> {
        if parameter.is_some() && self.int64.is_some() {
            return Err(BadRequest::Twice { parameter: INT64 });
        }
        self.int64 = self.int64.or(parameter);
        Ok(self)
    }
}

fn bad(field: impl Into<String>, problem: impl Into<String>) -> BadBody {
    BadBody::Field { field: field.into(), problem: problem.into() }
}

fn sql(value: Option<Value>) -> Result<String, BadBody> {
    match value {
        Some(Value::String(sql)) if sql.trim().is_empty() => Err(bad("sql", "it is empty")),
        Some(Value::String(sql)) if sql.len() > MAX_SQL_BYTES => {
            Err(bad("sql", format!("it has {} bytes, at most {MAX_SQL_BYTES} are read", sql.len())))
        }
        Some(Value::String(sql)) => Ok(sql),
        Some(_) => Err(bad("sql", "it must be a text")),
        None => Err(bad("sql", "it is missing")),
    }
}

fn format(value: Option<Value>) -> Result<Format, BadBody> {
    let expected = || bad("format", "it must be json, csv, parquet or ndjson");
    match value {
        None => Ok(Format::Json),
        Some(Value::String(name)) => Format::named(&name).ok_or_else(expected),
        Some(_) => Err(expected()),
    }
}

fn int64(value: Option<Value>) -> Result<Option<Int64>, BadBody> {
    let named =
        |value: Value| value.as_str().and_then(Int64::named).ok_or_else(|| bad(INT64, "it must be number or string"));
    value.map(named).transpose()
}

fn params(value: Option<Value>) -> Result<Map<String, Value>, BadBody> {
    let params = match value {
        None => return Ok(Map::new()),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(bad("params", "it must be an object of names and values")),
    };
    if params.len() > MAX_PARAMS {
        return Err(bad("params", format!("there are {}, at most {MAX_PARAMS} are bound", params.len())));
    }
    for (name, value) in &params {
        let path = || format!("params.{}", quoted(name));
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(bad(path(), "a name has letters, digits and underscores"));
        }
        let is_scalar = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
        if !is_scalar(value) && !value.as_array().is_some_and(|items| items.iter().all(is_scalar)) {
            return Err(bad(path(), "a value is a text, a number, true, false, or an array of these"));
        }
    }
    Ok(params)
}

/// Answers a request, up to the first byte.
pub async fn answer(
    app: &App,
    adhoc: &Adhoc,
    Asking { scope, headers, raw, came }: Asking<'_>,
    body: Body,
) -> Result<(Format, Outgoing), AdhocError> {
    let int64 = Int64::parameter(&Params::parse(raw, &[INT64])?)?;
    let analyst = adhoc.analyst.as_ref().ok_or(AdhocError::NotSetUp)?;
    is_json(headers)?;
    let mut ask = SqlRequest::parse(&body_reading::read(headers, body, MAX_BODY_BYTES).await?)?.with_int64(int64)?;
    ask.sql = sql_allow_list::check(&ask.sql)?;
    adhoc.refused.check(&scope, &ask)?;
    let bound = analyst.bound(&scope).ok_or(ReadError::Failed)?;
    let class = Class::AdHoc;
    let deadline = Some(came + app.sources.store.deadline(class));
    let asking = AdmissionRequest { class, project: scope.project().to_owned(), deadline };
    let permit = app.sources.store.admit(&asking).await?;
    // Before it runs, so that no work is done for an answer that cannot be sent; and without waiting, for others wait here.
    let send_permit = adhoc.answers.take_now(scope.project()).map_err(ReadError::from)?;
    let deadline = permit.deadline();
    let watched = app.sources.store.watch(HeldPermit::Query(permit), bound.client());
    let asked = tokio::time::timeout_at(deadline, bound.ask(&ask, watched.query_id()));
    let complete = match asked.await.unwrap_or(Err(StoreError::TimedOut)) {
        Ok(complete) => complete,
        Err(error) => {
            watched.failed_at_theirs(&error);
            let error = of_statement(&error, (app.clock)());
            adhoc.refused.failed(&scope, &ask, &error);
            return Err(error);
        }
    };
    // What comes now waits in ClickHouse, complete: no query runs for it any more.
    watched.answered();
    let shape = match ask.format {
        Format::Json => Shape::text(Form::Json(Box::new(JsonRows::new(came.into_std())))),
        Format::Ndjson | Format::Csv => Shape::text(Form::AsIs),
        Format::Parquet => Shape::Binary,
    };
    let limits = Limits { max_bytes: MAX_ANSWER_BYTES, ..adhoc.export_limits };
    let (first, cursor, metrics) = (complete.first, complete.cursor, adhoc.metrics.clone());
    Ok((ask.format, Outgoing { first, cursor, shape, watched: None, permit: Some(send_permit), limits, metrics }))
}

fn is_json(headers: &HeaderMap) -> Result<(), BadBody> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(BadBody::NotJson) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read() {
        let ask =
            SqlRequest::parse(br#"{"sql":"SELECT {a:UInt8}","format":"csv","params":{"a":1,"b":["x"]}}"#).unwrap();
        assert_eq!((ask.sql.as_str(), ask.format, ask.params.len()), ("SELECT {a:UInt8}", Format::Csv, 2));
        assert_eq!(SqlRequest::parse(br#"{"sql":"SELECT 1"}"#).unwrap().format, Format::Json);
    }

    #[test]
    fn errors_name_the_field() {
        let long = format!(r#"{{"sql":"{}"}}"#, "x".repeat(MAX_SQL_BYTES + 1));
        for (body, expected) in [
            ("{", "the body is not JSON: EOF while parsing an object at line 1 column 1"),
            ("[]", "the body is not a JSON object such as {\"sql\": \"SELECT 1\"}"),
            (r#"{"sq":"SELECT 1"}"#, "`sq` is not a field here; did you mean sql?"),
            ("{}", "`sql`: it is missing"),
            (r#"{"sql":1}"#, "`sql`: it must be a text"),
            (r#"{"sql":"SELECT 1","sql":"SELECT 2"}"#, "`sql`: it is given more than once"),
            (r#"{"sql":"x","params":{"a":1,"a":2}}"#, "`params.a`: it is given more than once"),
            (r#"{"sql":" "}"#, "`sql`: it is empty"),
            (&long, "`sql`: it has 10241 bytes, at most 10240 are read"),
            (r#"{"sql":"x","format":"xml"}"#, "`format`: it must be json, csv, parquet or ndjson"),
            (r#"{"sql":"x","int64":true}"#, "`int64`: it must be number or string"),
            (r#"{"sql":"x","params":[]}"#, "`params`: it must be an object of names and values"),
            (r#"{"sql":"x","params":{"a b":1}}"#, "`params.a b`: a name has letters, digits and underscores"),
            (
                r#"{"sql":"x","params":{"a":{}}}"#,
                "`params.a`: a value is a text, a number, true, false, or an array of these",
            ),
        ] {
            assert_eq!(SqlRequest::parse(body.as_bytes()).unwrap_err().to_string(), expected, "{body}");
        }
    }
}
