//! The routes of ad-hoc reading.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::{Shared, error};
use crate::adhoc::export::{self, Format};
use crate::adhoc::stream::Outgoing;
use crate::adhoc::{AdhocError, sql_api};
use crate::metrics::Route;

pub(super) async fn sql(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    let began = Instant::now();
    let _running = shared.metrics.request_began();
    let answer = sql_api::answer(&shared.app, &shared.adhoc, &headers, body).await;
    finish(&shared, Route::Sql, answer, began)
}

pub(super) async fn export(State(shared): State<Arc<Shared>>, RawQuery(raw): RawQuery, headers: HeaderMap) -> Response {
    let began = Instant::now();
    let _running = shared.metrics.request_began();
    let answer = export::answer(&shared.app, &shared.adhoc, &headers, raw.as_deref()).await;
    finish(&shared, Route::Export, answer, began)
}

/// The response; the time that is counted ends with its first byte.
fn finish(shared: &Shared, route: Route, answer: Result<(Format, Outgoing), AdhocError>, began: Instant) -> Response {
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
