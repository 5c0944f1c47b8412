//! The outermost layer of a public router: what is seen of every request, whatever it asks for and however it ends.
//!
//! ```text
//! request -> its trace (W3C traceparent, or a new one) -> answered -> metrics; a line: failed (5xx) or slow always, one in 100 of the others
//!                                                                  spans, where there is a collector (`crate::trace`)
//! ```
//!
//! Failure cases: a flood of failures writes at most `LINES_A_SECOND` lines; the others are counted. Sampled ones have a bound of their own, so that
//! they take no failure's line. A client that leaves is counted as 499. A handler that panics is answered with 500 `internal`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;

use crate::http::Problem;
use crate::metrics::http::{ListenerRequests, Measured};
use crate::per_second::PerSecond;
use crate::trace::{RequestEnd, RequestTrace, SLOW, Trace, Tracer};

const TRACEPARENT: &str = "traceparent";

/// Of requests that are neither failed nor slow, one in so many has a line.
const SAMPLED: u64 = 100;

/// Lines about requests that failed or were slow in a second, at most.
const LINES_A_SECOND: u32 = 50;

/// The same of sampled ones.
const SAMPLES_A_SECOND: u32 = 10;

/// What sees them.
#[derive(Debug)]
pub struct Observer {
    requests: ListenerRequests,
    ended: AtomicU64,
    lines: PerSecond,
    samples: PerSecond,
    tracer: Option<Tracer>,
}

impl Observer {
    pub fn new(requests: ListenerRequests) -> Self {
        let (lines, samples) = (PerSecond::at_most(LINES_A_SECOND), PerSecond::at_most(SAMPLES_A_SECOND));
        Self { requests, ended: AtomicU64::new(0), lines, samples, tracer: None }
    }

    /// One that records spans.
    #[must_use]
    pub fn traced_by(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    /// Watches every request to a router.
    pub fn watch(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(Arc::new(self), pass))
    }

    /// Why a request has a line, if it has one.
    fn reason(&self, status: StatusCode, took: Duration) -> Option<Reason> {
        match () {
            () if status.is_server_error() => Some(Reason::Failed),
            () if took >= SLOW => Some(Reason::Slow),
            () if self.ended.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED) => Some(Reason::Sampled),
            () => None,
        }
    }

    fn log(&self, request: &Measured<'_>, status: StatusCode, took: Duration) {
        let Some(reason) = self.reason(status, took) else { return };
        let written = match reason {
            Reason::Failed | Reason::Slow => &self.lines,
            Reason::Sampled => &self.samples,
        };
        if !written.takes() {
            self.requests.line_left_out();
            return;
        }
        tracing::info!(
            target: "tallyhouse::request",
            listener = self.requests.listener(),
            method = request.method(),
            route = request.route(),
            status = status.as_u16(),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            why = reason.name(),
            "request"
        );
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Failed,
    Slow,
    Sampled,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Slow => "slow",
            Self::Sampled => "sampled",
        }
    }
}

async fn pass(State(observer): State<Arc<Observer>>, mut request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let given = request.headers().get(TRACEPARENT).map(HeaderValue::to_str);
    let caller = given.as_ref().and_then(|given| given.as_ref().ok()).and_then(|given| Trace::read(given));
    let mut recorded = observer.tracer.as_ref().map(|tracer| tracer.request(caller));
    let trace = recorded.as_ref().map_or_else(|| Trace::below(caller), RequestTrace::trace);
    if given.is_some() || (recorded.is_some() && trace.is_sampled()) {
        // What goes on from here has this span as its parent. Records of other requests do not carry one.
        if let Ok(told) = HeaderValue::from_str(&trace.traceparent()) {
            request.headers_mut().insert(TRACEPARENT, told);
        }
    }
    let measured = observer.requests.began(matched.as_ref().map(MatchedPath::as_str), &method);
    let answering = async {
        // What a handler shares with others is in locks that outlive a panic.
        let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let response = answered.unwrap_or_else(|_| panicked(&measured));
        let (status, took) = (response.status(), measured.took());
        observer.log(&measured, status, took);
        (response, status, took)
    };
    let (response, status, took) = match &recorded {
        Some(recorded) => recorded.scope(answering).await,
        None => trace.scope(answering).await,
    };
    if let Some(recorded) = &mut recorded {
        recorded.end(end(&measured, observer.requests.listener(), status, took));
    }
    measured.answered(status, took);
    response
}

/// As the conventions of OpenTelemetry call it. No path, query or header is in it.
fn end(request: &Measured<'_>, listener: &'static str, status: StatusCode, took: Duration) -> RequestEnd {
    let is_failed = status.is_server_error();
    RequestEnd {
        name: format!("{} {}", request.method(), request.route()),
        attributes: vec![
            ("http.request.method", request.method().to_owned().into()),
            ("http.route", request.route().to_owned().into()),
            ("http.response.status_code", status.as_u16().into()),
            ("tallyhouse.listener", listener.into()),
        ],
        error: is_failed.then(|| status.as_str().to_owned().into()),
        is_notable: is_failed || took >= SLOW,
    }
}

/// What it said is in the line of the panic itself.
fn panicked(request: &Measured<'_>) -> Response {
    tracing::error!(method = request.method(), route = request.route(), "the handler of a request panicked");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "something went wrong here; try again, and tell the operator if it stays",
    )
    .retry_after(1)
    .into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;
    use crate::http::not_found;
    use crate::metrics::Registry;
    use crate::metrics::http::HttpMetrics;

    fn observer(registry: &Registry) -> Observer {
        Observer::new(HttpMetrics::register(registry).unwrap().of("test"))
    }

    #[tokio::test]
    async fn routes_are_patterns_and_what_no_route_matches_is_counted_too() {
        let registry = Registry::new();
        let router = Router::new().route("/a/{name}", get(|| async { "a" })).fallback(not_found);
        let router = observer(&registry).watch(router);
        for (method, path) in [("GET", "/a/1"), ("GET", "/a/2"), ("PUT", "/a/1"), ("GET", "/b"), ("BREW", "/c")] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap();
        }
        let families = registry.gather();
        let family = families.iter().find(|one| one.name() == "tallyhouse_http_requests_total").unwrap();
        let mut found: Vec<(String, f64)> = family
            .get_metric()
            .iter()
            .map(|one| {
                let labels: Vec<&str> = one.get_label().iter().map(|label| label.value()).collect();
                (labels.join(" "), one.get_counter().get_value())
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let expected =
            [("test GET /a/{name} 200", 2.0), ("test other /a/{name} 405", 1.0), ("test other unmatched 404", 2.0)];
        assert_eq!(found, expected.map(|(labels, count)| (labels.to_owned(), count)));
    }

    #[tokio::test]
    async fn a_handler_is_within_the_callers_trace_and_hands_on_a_span_of_its_own() {
        let handler = |request: Request| async move {
            let told = request.headers().get(TRACEPARENT).map(|told| told.to_str().unwrap().to_owned());
            format!("{} {}", crate::trace::current().unwrap().trace_id(), told.unwrap_or_default())
        };
        let router = observer(&Registry::new()).watch(Router::new().route("/", get(handler)));
        let ask = async |given: Option<&str>| {
            let mut request = Request::builder().uri("/").body(Body::empty()).unwrap();
            given.map(|given| request.headers_mut().insert(TRACEPARENT, given.parse().unwrap()));
            let response = router.clone().oneshot(request).await.unwrap();
            let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
            String::from_utf8(body.to_vec()).unwrap()
        };
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let said = ask(Some(given)).await;
        assert!(said.starts_with("0af7651916cd43dd8448eb211c80319c 00-0af7651916cd43dd8448eb211c80319c-"), "{said}");
        assert!(!said.contains("b7ad6b7169203331"), "{said}");
        assert!(ask(None).await.ends_with(' '), "nobody traces: records need no header");
    }

    #[test]
    fn failed_and_slow_requests_have_a_line_and_one_in_a_hundred_others() {
        let observer = observer(&Registry::new());
        let of = |status, ms| observer.reason(status, Duration::from_millis(ms));
        assert_eq!(of(StatusCode::SERVICE_UNAVAILABLE, 1), Some(Reason::Failed));
        assert_eq!(of(StatusCode::OK, 2_000), Some(Reason::Slow));
        let sampled = (0..1_000).filter(|_| of(StatusCode::OK, 1) == Some(Reason::Sampled)).count();
        assert_eq!(sampled, 10);
        assert_eq!(of(StatusCode::UNAUTHORIZED, 1), Some(Reason::Sampled), "sampled as the others");
        assert_eq!(of(StatusCode::UNAUTHORIZED, 1), None);
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_and_counted_as_500() {
        async fn broken() -> &'static str {
            panic!("broken on purpose")
        }
        let registry = Registry::new();
        let router = observer(&registry).watch(Router::new().route("/", get(broken)));
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "internal");
        let families = registry.gather();
        let family = families.iter().find(|one| one.name() == "tallyhouse_http_requests_total").unwrap();
        let labels: Vec<&str> = family.get_metric()[0].get_label().iter().map(|label| label.value()).collect();
        assert_eq!((family.get_metric().len(), labels.join(" ")), (1, "test GET / 500".to_owned()));
    }
}
