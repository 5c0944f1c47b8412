//! What it costs a request to be let in: its key is checked, and it is charged to its address and its key. What is above `bare` counts:
//! `cargo bench -p tallyhouse-control --bench gate`.
#![allow(clippy::expect_used, missing_docs, reason = "a benchmark")]

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use divan::{AllocProfiler, Bencher};
use tallyhouse_control::access::Gate;
use tallyhouse_control::{Control, FixedKeys};
use tallyhouse_service::access::telemetry::AccessMetrics;
use tallyhouse_service::access::{Access, GuardedRouter, Right};
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::rate_limit::{
    LimitsOf, Mode, Peer, RateLimitMetrics, RateLimitSettings, RateLimits, Rule, Tier,
};
use tokio::runtime::Builder;
use tower::ServiceExt as _;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn routes() -> GuardedRouter {
    GuardedRouter::default().get("/v1/metrics/{name}", Access::Needs(Right::ReadMetrics), async || "")
}

fn gated(mode: Mode) -> Router {
    let registry = Registry::new();
    let settings = RateLimitSettings { mode, requests: Rule::per_minute(1_000_000_000), ..RateLimitSettings::off() };
    let metrics = RateLimitMetrics::register(&registry).expect("there are none yet");
    let limits = RateLimits::new("query", settings, None, metrics).expect("no Redis is asked");
    let of = LimitsOf::tier(Tier::Standard).with_queries(Some(1_000_000_000));
    let control = Control::fixed(FixedKeys::development().with_limits(of));
    let metrics = AccessMetrics::register(&registry).expect("there are none yet");
    Gate { listener: "bench", control, tokens: None, metrics, limits }.protect(routes())
}

fn ask(bencher: Bencher<'_, '_>, router: &Router) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let request = || {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/v1/metrics/events".parse().expect("a path");
        request.headers_mut().insert("x-api-key", "demo-query-key".parse().expect("a key"));
        request.extensions_mut().insert(Peer([192, 0, 2, 1].into()));
        request
    };
    bencher.with_inputs(request).bench_local_values(|request| {
        let response = runtime.block_on(router.clone().oneshot(request)).expect("it answers");
        assert!(response.status().is_success());
        response
    });
}

#[divan::bench]
fn bare(bencher: Bencher<'_, '_>) {
    let (router, _) = routes().into_parts();
    ask(bencher, &router);
}

#[divan::bench]
fn key(bencher: Bencher<'_, '_>) {
    ask(bencher, &gated(Mode::Off));
}

#[divan::bench]
fn key_and_limits(bencher: Bencher<'_, '_>) {
    ask(bencher, &gated(Mode::Enforce));
}
