//! Time and allocations of an answer from the memory of the process: `cargo bench -p tallyhouse-query-api --bench cache_hit`.
#![allow(clippy::expect_used, missing_docs, reason = "a benchmark")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use divan::{AllocProfiler, Bencher};
use tallyhouse_control::{Control, FixedKeys};
use tallyhouse_query_api::authorize::Scope;
use tallyhouse_query_api::cache::answers::Layers;
use tallyhouse_query_api::cache::cache_request::FallbackKeys;
use tallyhouse_query_api::cache::ttl::Policy;
use tallyhouse_query_api::cache::versions::Versions;
use tallyhouse_query_api::cache::{Answers, CacheRequest, Memory, Rendered};
use tallyhouse_query_api::clock::Clock;
use tallyhouse_query_api::plan::{Plan, RealtimePlan};
use tallyhouse_query_api::telemetry::Metrics;
use tallyhouse_service::metrics::Registry;
use tokio::runtime::Builder;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

/// 2026-11-20T12:34:56.789Z
const NOW: i64 = 1_795_178_096_789;

/// Bytes of an answer: a chart of a day by quarters of an hour.
const ANSWER: usize = 8 << 10;

fn main() {
    divan::main();
}

#[divan::bench]
fn remembered(bencher: Bencher<'_, '_>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let (answers, request) = (answers(), request());
    runtime.block_on(answers.get(&request)).expect("it is computed once");
    bencher.bench_local(|| {
        runtime.block_on(async {
            let (answer, _) = answers.get(&request).await.expect("it is remembered");
            answer.open().await.expect("it is whole")
        })
    });
}

fn answers() -> Answers {
    let clock: Clock = Arc::new(|| NOW);
    let metrics = Metrics::register(&Registry::new()).expect("the names are free");
    Answers::new(Layers {
        memory: Memory::new(64 << 20),
        shared: None,
        versions: Versions::new(None, None, Arc::clone(&clock), metrics.clone()),
        policy: Policy { open: Duration::from_secs(60) },
        metrics,
        clock,
        random: Arc::new(|| 0.5),
    })
}

fn request() -> CacheRequest {
    let to = NOW / 60_000 * 60;
    let rendered = Rendered {
        head: Bytes::from(vec![b' '; ANSWER]),
        etag: String::new(),
        oldest_ms: None,
        seen_ms: None,
        is_partial: false,
    };
    CacheRequest {
        scope: scope(),
        plan: Arc::new(Plan::Realtime(RealtimePlan { short_from: to - 1_800, long_from: to - 86_400, to })),
        name: "the last day".into(),
        fallback: FallbackKeys { span: [0; 32], shorter: [1; 32], start: [2; 32] },
        within: Duration::from_secs(10),
        deadline: tokio::time::Instant::now() + Duration::from_secs(3_600),
        compute: Arc::new(move |_, _| {
            let rendered = rendered.clone();
            Box::pin(async move { Ok(rendered) })
        }),
        renew: Arc::new(|_| None),
        asked: None,
    }
}

fn scope() -> Scope {
    let control = Control::fixed(FixedKeys::development());
    let key = control.find("demo-query-key").expect("the key is known in development");
    Scope::of(Arc::clone(&key.principal)).expect("it is of a project")
}
