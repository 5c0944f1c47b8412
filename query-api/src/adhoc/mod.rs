//! Ad-hoc queries: SQL of analysts (`POST /v1/sql`) and raw events (`GET /v1/export`).
//!
//! ```text
//! sql     body -> SqlRequest -> allow-list -> admission -> ClickHouse as `analyst` -> complete answer -> json | csv | parquet | ndjson
//! export  query string -> ExportAsk -> permit of its own -> ClickHouse as `reader` -> bytes, as fast as the client reads them
//! ```
//!
//! ClickHouse enforces who sees what: every table that `analyst` may read has a row policy that compares
//! `project_id` with the request header [`PROJECT_HEADER`], which this service sets from the caller's key and no SQL can
//! change. (A setting would not do: a subquery's `SETTINGS` clause changes settings even when they are read-only.) Grants
//! allow four tables, `readonly = 1` forbids writes, and a profile and a quota limit the user. [`sql_allow_list`] lets
//! through the functions of a reviewed list ([`functions`]) and none of the clauses that grants and policies do not cover.
//!
//! Failure cases:
//! * SQL that ClickHouse refuses is a 400 with its sanitized text, a limit a 422, a quota a 429: always before the first
//!   byte, because ClickHouse holds the answer back until it is complete.
//! * An export that fails half-way breaks the connection: a short file never looks complete.
//! * A client that stops reading stops ClickHouse too, and loses its answer after [`stream::Limits::stall`], as does
//!   one that reads more slowly than [`stream::LEAST_RATE`].
//! * Answers of statements that are read slowly are limited, in all and per project ([`SendPermits::of_statements`]): further
//!   statements are refused (429, 503) before they run.
//! * A client that leaves ends its query; the permit is released once ClickHouse has stopped it ([`crate::store`]).

pub mod analyst;
pub mod error;
pub mod export;
pub mod functions;
pub mod int64;
pub mod local_times;
pub mod refused_statements;
pub mod rows;
pub mod sanitize;
pub mod shape;
pub mod sql_allow_list;
pub mod sql_api;
pub mod statements;
pub mod stream;
pub mod utf8;

pub use analyst::Analyst;
pub use error::AdhocError;

use std::time::Duration;

use tallyhouse_sql::clickhouse::Client;

use crate::admission::SendPermits;
use crate::telemetry::Metrics;

/// The longest wait for the first byte of an answer; also in the profiles of both users.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The request header that row policies compare `project_id` with. Also in `users.xml` and in `sql/access/`.
pub const PROJECT_HEADER: &str = "X-Tallyhouse-Project";

/// What ad-hoc reading works with. Clones share its limits.
#[derive(Clone)]
pub struct Adhoc {
    /// The user for SQL of others; `None` where it was not set up.
    pub analyst: Option<Analyst>,
    /// The user for exports.
    pub reader: Client,
    /// Who may export when.
    pub exports: SendPermits,
    /// Whose statements' answers may wait to be read.
    pub answers: SendPermits,
    /// Statements that reached a limit just now.
    pub refused: refused_statements::RefusedStatements,
    /// How long and how slow an export may be.
    pub export_limits: stream::Limits,
    pub metrics: Metrics,
}
