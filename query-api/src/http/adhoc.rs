//! The routes of ad-hoc queries.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::{HttpState, error};
use crate::adhoc::export::{self, Exported, Format};
use crate::adhoc::stream::Outgoing;
use crate::adhoc::{AdhocError, sql_api};
use crate::authorize::Scope;
use crate::render::json;
use crate::serve::Asking;
use crate::telemetry::Route;
use crate::warning::Warning;

/// What an answer has no `meta` for: the list of warnings as JSON, all but ASCII escaped.
const X_WARNINGS: HeaderName = HeaderName::from_static("x-warnings");

pub(super) async fn sql(
    State(shared): State<Arc<HttpState>>,
    RawQuery(raw): RawQuery,
    scope: Scope,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let began = Instant::now();
    let _running = shared.metrics.request_began();
    let answer =
        sql_api::answer(&shared.app, &shared.adhoc, asking(scope, &headers, raw.as_deref(), began), body).await;
    finish(&shared, Route::Sql, answer, began)
}

pub(super) async fn export(
    State(shared): State<Arc<HttpState>>,
    RawQuery(raw): RawQuery,
    scope: Scope,
    headers: HeaderMap,
) -> Response {
    let began = Instant::now();
    let _running = shared.metrics.request_began();
    let answer = export::answer(&shared.app, &shared.adhoc, asking(scope, &headers, raw.as_deref(), began)).await;
    let (answer, warnings) = match answer {
        Ok(Exported { format, outgoing, warnings }) => (Ok((format, outgoing)), warnings),
        Err(refusal) => (Err(refusal), Vec::new()),
    };
    let mut response = finish(&shared, Route::Export, answer, began);
    let warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
    response.headers_mut().extend(warnings.and_then(|warnings| Some((X_WARNINGS, header_of(&warnings)?))));
    response
}

fn asking<'r>(scope: Scope, headers: &'r HeaderMap, raw: Option<&'r str>, began: Instant) -> Asking<'r> {
    Asking { scope, headers, raw, came: began.into() }
}

fn header_of(warnings: &[Warning]) -> Option<HeaderValue> {
    let mut units = [0; 2];
    let escaped = json::text(&warnings).chars().fold(String::new(), |mut text, c| {
        if c.is_ascii() {
            text.push(c);
        } else {
            text.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
        text
    });
    HeaderValue::try_from(escaped).ok()
}

/// The response; the time that is counted ends with its first byte.
fn finish(
    shared: &HttpState,
    route: Route,
    answer: Result<(Format, Outgoing), AdhocError>,
    began: Instant,
) -> Response {
    let response = match answer {
        Ok((format, outgoing)) => {
            let mut response = Response::new(outgoing.into_body());
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            // Somebody's rows: nobody between us and the client keeps them.
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
            if route == Route::Export {
                let name = format!("attachment; filename=\"events.{}\"", format.name());
                headers.extend(HeaderValue::try_from(name).ok().map(|name| (header::CONTENT_DISPOSITION, name)));
            }
            response
        }
        Err(refusal) => error::of_adhoc(&refusal).into_response(),
    };
    shared.metrics.answered(route, response.status(), None, began.elapsed());
    response
}
