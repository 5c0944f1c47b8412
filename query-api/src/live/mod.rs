//! Live metrics: one query to ClickHouse per tick, however many listeners a question has.
//!
//! ```text
//! HTTP -> authorize -> StreamQuery -> Hub --(first listener)--> ticker: plan -> ClickHouse -> render -> Update
//!                                      '--(every listener)--> Cursor <-- watch --'
//!                                                               '-> frames -> body
//! ```
//!
//! That is per process: each instance of the service queries for its own listeners.
//!
//! * [`query`] reads the parameters; questions that mean the same have the same key, and a key has one ticker.
//! * [`ticker`] queries at each interval and publishes to a `watch`: a slow listener skips values, nothing queues up. Ticks have slots of
//!   their own in admission, and share the chunks that they read.
//! * [`update`] decides, without I/O, what an answer or a failure changes, and which frames a listener is sent.
//! * [`frame`] encodes events; a frame is encoded once and shared by all listeners.
//! * [`stream`] is one listener: values, heartbeats, its end.
//!
//! | when | then |
//! |---|---|
//! | the answer is unchanged | a comment instead of the value |
//! | a tick fails | `event: error` once per kind of failure; a new listener gets the last value, marked as stale |
//! | its metric is registered anew | the next answer is of the new version |
//! | a tick succeeds after a failure | the value, even if it is the same: that ends the error |
//! | nothing else was sent for 15 s | a comment, so that a dead connection is noticed |
//! | a client does not read | values are skipped; once the kernel's buffers are full, the connection ends after 30 s |
//! | the last listener leaves | the ticker ends, and the query that it waits for is killed |
//! | the service stops, an hour is over, or the key is revoked or the token expires | `event: bye`; a client that comes back is authorized anew |
//! | too many listeners or questions | 429 (of the project) or 503 (of all), with `Retry-After` |

pub mod frame;
pub mod hub;
pub mod query;
pub mod stream;
pub mod ticker;
pub mod update;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use tallyhouse_control::access::Lease;
use tokio_util::sync::CancellationToken;

pub use hub::{Full, Hub, Limits};
pub use query::{StreamKey, StreamQuery};

use crate::authorize::Scope;
use crate::plan::{Plan, one_series};
use crate::request::{BadRequest, Params};
use crate::serve::{App, Refusal, series};
use stream::Listening;
use ticker::Upstream;
use update::Cursor;

/// The id of the last event that a client saw, when it comes back.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Everything that streaming needs beside answering.
#[derive(Clone)]
pub struct Live {
    /// Who listens to what.
    pub hub: Hub,
    /// Ends all streams.
    pub shutdown: CancellationToken,
}

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotOpened {
    /// The question is refused, as it would be without a stream.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many streams are open.
    #[error(transparent)]
    Full(#[from] Full),
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Of the metric.
    pub name: &'a str,
    pub headers: &'a HeaderMap,
    /// The query string.
    pub raw: Option<&'a str>,
}

/// Opens a stream. What is wrong with the question is said now, as for any other.
pub fn open(
    app: &Arc<App>,
    live: &Live,
    (scope, lease): (Scope, Lease),
    asked: Asked<'_>,
) -> Result<Response<Body>, NotOpened> {
    let (key, cursor, upstream) = question(app, scope, asked)?;
    let listener = live.hub.listen(key, |publish| ticker::run(upstream, publish))?;
    let listening = Listening {
        listener,
        cursor,
        shutdown: live.shutdown.clone(),
        lease,
        metrics: app.answers.metrics.clone(),
        retry_ms: stream::retry_ms(rand::random()),
    };
    Ok(response(stream::body(listening)))
}

/// What is asked: its key, where its reader goes on, and who asks it at each tick.
fn question(
    app: &Arc<App>,
    scope: Scope,
    Asked { name, headers, raw }: Asked<'_>,
) -> Result<(StreamKey, Cursor, Upstream), Refusal> {
    let now_ms = (app.clock)();
    let params = Params::parse(raw, query::STREAM_PARAMS)?;
    let query = StreamQuery::of(series(app, &scope, name, &params, now_ms)?, &params)?;
    let plan = Plan::from(one_series(&query.series, &app.catalogue.of(scope.project()), now_ms)?);
    let key = query.key(&scope, &plan).ok_or(crate::store::ReadError::Failed)?;
    let cursor = Cursor::resume(last_event_id(headers)?);
    Ok((key, cursor, Upstream { app: Arc::clone(app), scope, query }))
}

fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that collect a response before they pass it on would hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, BadRequest> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| BadRequest::Malformed {
        parameter: "Last-Event-ID",
        given: "…".to_owned(),
        expected: "the id of an event of this stream".to_owned(),
    })
}
