//! Time and allocations from a query string to a plan: `cargo bench -p tallyhouse-query-api`.
#![allow(clippy::expect_used, missing_docs, reason = "a benchmark")]

use divan::{AllocProfiler, Bencher};
use tallyhouse_query_api::plan::series;
use tallyhouse_query_api::request::query::METRIC_PARAMS;
use tallyhouse_query_api::request::{MetricQuery, Params};
use tallyhouse_schema::Catalogue;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

/// 2026-11-20T12:34:56.789Z
const NOW: i64 = 1_795_178_096_789;

const DAY: &str = "startTime=2026-11-19T00:00:00Z&endTime=2026-11-20T00:00:00Z";
const MONTH_BY_COUNTRY: &str = "startTime=2026-10-01&endTime=2026-11-01&timezone=Europe/Berlin&granularity=day\
    &eventType=purchase&groupBy=country&limit=10&other=true&filter=device:mobile,desktop";

fn main() {
    divan::main();
}

#[divan::bench]
fn day(bencher: Bencher<'_, '_>) {
    plan(bencher, DAY);
}

#[divan::bench]
fn month_by_country(bencher: Bencher<'_, '_>) {
    plan(bencher, MONTH_BY_COUNTRY);
}

fn plan(bencher: Bencher<'_, '_>, question: &str) {
    let catalogue = Catalogue::built_in().expect("they are tested");
    bencher.bench_local(|| {
        let params = Params::parse(Some(question), METRIC_PARAMS).expect("the parameters are known");
        let query = MetricQuery::parse("events", &params, &Vec::new, NOW).expect("the question is one");
        series::plan(&query, &catalogue, NOW).expect("it can be answered")
    });
}
