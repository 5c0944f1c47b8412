//! Every metric is in `deploy/prometheus/metrics.md`, is what Prometheus wants it to be, and is there when something happened.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tallyhouse::telemetry::Metrics as EngineMetrics;
use tallyhouse_ingest::telemetry::{ClickHouseMetrics, Metrics as IngestMetrics};
use tallyhouse_query_api::telemetry::{CanaryMetrics, DriftMetrics, Metrics as QueryMetrics};
use tallyhouse_service::access::telemetry::AccessMetrics;
use tallyhouse_service::health::Health;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_service::metrics::http::HttpMetrics;
use tallyhouse_service::metrics::pools::Pools;
use tallyhouse_service::metrics::{Common, Description, Registry, disk};
use tallyhouse_service::rate_limit::RateLimitMetrics;
use tallyhouse_service::server::telemetry::ServerMetrics;
use tallyhouse_service::tls::telemetry::TlsMetrics;
use tallyhouse_service::trace_export::telemetry::TraceMetrics;
use tallyhouse_testkit::eventually;

use crate::first_start::Up;

const HEAD: &str = "\
# Metrics

Every metric that the admin ports show: `INGEST_ADMIN_ADDR` and `QUERY_ADMIN_ADDR`, `GET /metrics`. A test compares this list with the code, so a rule or a
panel may go by it. Units are in the names: `_seconds`, `_bytes`, `_total` of what only grows. A histogram `x` has `x_bucket`, `x_sum` and `x_count`.

What does not apply has no series: there is no lag without Kafka, no Redis pool without Redis, nothing of ClickHouse but
`tallyhouse_clickhouse_up` while it does not answer. A counter with labels has a series from the first time on; ask for `rate(…) or vector(0)` where none
means zero. Labels have few values, all of them known beforehand:

| label | values |
|---|---|
| `listener`, `service` | `ingest`, `query` |
| `route` | the pattern of a route, such as `/v1/metrics/{name}`; `unmatched` |
| `method` | `GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE`, `OPTIONS`, `other` |
| `status` | of HTTP; `499`: the client left before it was answered |
| `pool` | `clickhouse_inserts`, `clickhouse_realtime`, `clickhouse_dashboard`, `clickhouse_stream`, `clickhouse_ad_hoc` (slots for statements); `redis_cache`, `redis_rate_limits`, `redis_changed_days` (connections) |
| `component` | of [health](../README.md#health-and-logs): `clickhouse`, `kafka`, `redis`, `inserts`, `store`, … |
| `server` | host and port of `CLICKHOUSE_URL` |
| `table`, `volume`, `disk` | of ClickHouse |
| `topic`, `partition` | of Kafka, assigned to this process |
| `fate` | `stored`, `logged`, `duplicate`, `rejected`, `dropped`, `dead_lettered`, `suppressed`, `handed_back` |
| `code` | of an answer, a rejection or a warning: [ingest](../../ingest/README.md), [query API](../../query-api/README.md) |
";

/// What each process shows: both services, ingest, the query API, and the process that has an embedded ClickHouse.
fn catalogue() -> [(&'static str, Registry); 4] {
    let [both, ingest, query, engine] = std::array::from_fn(|_| Registry::new());
    HttpMetrics::register(&both).unwrap();
    ServerMetrics::register(&both).unwrap();
    AccessMetrics::register(&both).unwrap();
    RateLimitMetrics::register(&both).unwrap();
    TlsMetrics::register(&both).unwrap();
    TraceMetrics::register(&both).unwrap();
    Pools::register(&both).unwrap();
    Common { service: "ingest", version: "1", health: &Health::default() }.register(&both).unwrap();
    IngestMetrics::register(&ingest).unwrap();
    ClickHouseMetrics::register(&ingest).unwrap();
    disk::register(&ingest, PathBuf::from("/")).unwrap();
    QueryMetrics::register(&query).unwrap();
    CanaryMetrics::register(&query).unwrap();
    DriftMetrics::register(&query).unwrap();
    EngineMetrics::register(&engine).unwrap();
    [
        ("Both services", both),
        ("Ingest", ingest),
        ("Query API", query),
        ("`tallyhouse up`, on the port of ingest", engine),
    ]
}

fn listed() -> String {
    let mut text = HEAD.to_owned();
    for (title, registry) in catalogue() {
        write!(text, "\n## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n").unwrap();
        for Description { name, kind, help, labels } in registry.descriptions() {
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            writeln!(text, "| `{name}` | {} | {labels} | {help} |", kind.name()).unwrap();
        }
    }
    text
}

fn names() -> BTreeSet<String> {
    catalogue().iter().flat_map(|(_, registry)| registry.descriptions()).map(|one| one.name).collect()
}

#[test]
fn every_metric_is_listed() {
    let listed = listed();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../prometheus/metrics.md");
    if std::fs::read_to_string(&file).unwrap_or_default() != listed {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics.md");
        std::fs::write(&new, listed).unwrap();
        panic!("the list is not what the code has: cp {} deploy/prometheus/metrics.md", new.display());
    }
    let all: Vec<String> =
        catalogue().iter().flat_map(|(_, registry)| registry.descriptions()).map(|one| one.name).collect();
    assert_eq!(all.len(), names().len(), "one name, one metric");
}

/// What Prometheus' own linter says of a text in its format; `None` where it is not installed.
fn lint(text: &str) -> Option<String> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some(String::from_utf8(said).unwrap() + if output.status.success() { "" } else { "refused" })
}

fn skipped(test: &str) {
    eprintln!("SKIPPED {test}: promtool is not installed (Debian's package `prometheus`)");
}

/// A text as an admin port would show it, with one series of each metric.
fn example() -> String {
    let mut text = String::new();
    for Description { name, kind, help, labels } in catalogue().iter().flat_map(|(_, one)| one.descriptions()) {
        let labels = labels.iter().map(|label| format!("{label}=\"x\"")).collect::<Vec<_>>().join(",");
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        write!(text, "# HELP {name} {help}\n# TYPE {name} {}\n", kind.name()).unwrap();
        match kind.name() {
            "histogram" => {
                let comma = if labels.is_empty() { "" } else { "," };
                write!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} 1\n{name}_sum{{{labels}}} 1\n{name}_count{{{labels}}} 1\n")
                    .unwrap();
            }
            _ => writeln!(text, "{name}{{{labels}}} 1").unwrap(),
        }
    }
    text
}

#[test]
fn prometheus_finds_nothing_to_say_about_names_types_and_help() {
    match lint(&example()) {
        Some(said) => assert_eq!(said, ""),
        None => skipped("prometheus_finds_nothing_to_say_about_names_types_and_help"),
    }
    assert!(lint("# HELP x X\n# TYPE x counter\nx 1\n").is_none_or(|said| said.contains("_total")), "the linter lints");
}

/// The value of a series, by its name and some of its labels.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let is_it = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|label| line.contains(label))
    };
    text.lines().find(is_it)?.rsplit(' ').next()?.parse().ok()
}

async fn shown(up: &Up, port: usize) -> String {
    let admin = Endpoint::new(&format!("http://127.0.0.1:{}/", up.ports[port]), Duration::from_secs(5)).unwrap();
    String::from_utf8(admin.get("/metrics").await.unwrap().body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_system_shows_golden_signals_clickhouse_pools_and_itself() {
    let up = Up::start().await;
    for (port, path) in [(0, "/no/such/path"), (2, "/no/such/path"), (2, "/v1/metrics/revenue")] {
        let asked = Endpoint::new(&format!("http://127.0.0.1:{}/", up.ports[port]), Duration::from_secs(5)).unwrap();
        assert!(asked.get(path).await.unwrap().status.as_u16() >= 400, "{path}");
    }
    eventually("ClickHouse was asked how it is, and is up for a second", async || {
        let text = shown(&up, 1).await;
        let status = value(&text, "tallyhouse_component_status", &["component=\"clickhouse\""]);
        let uptime = value(&text, "tallyhouse_clickhouse_uptime_seconds", &[]);
        value(&text, "tallyhouse_clickhouse_up", &[]) == Some(1.0) && status == Some(0.0) && uptime > Some(0.0)
    })
    .await;
    let (ingest, query) = (shown(&up, 1).await, shown(&up, 3).await);
    let (known, requests) = (names(), "tallyhouse_http_requests_total");
    for (text, service) in [(&ingest, "ingest"), (&query, "query")] {
        match lint(text) {
            Some(said) => assert_eq!(said, "", "{service}"),
            None => skipped("a_running_system_shows_golden_signals_clickhouse_pools_and_itself"),
        }
        let strange: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let strange: Vec<_> = strange.into_iter().filter(|name| !known.contains(*name)).collect();
        assert!(strange.is_empty(), "not listed: {strange:?}");
        let listener = format!("listener=\"{service}\"");
        let unmatched = [&*listener, "route=\"unmatched\"", "status=\"404\""];
        assert_eq!(value(text, requests, &unmatched), Some(1.0), "{service}\n{text}");
        assert_eq!(value(text, "tallyhouse_build_info", &[&format!("service=\"{service}\"")]), Some(1.0));
        for name in
            ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"]
        {
            assert!(value(text, name, &[]).is_some_and(|value| value > 0.0), "{service}: {name}");
        }
        assert!(!text.contains("kafka") && !text.contains("redis"), "there is neither: {text}");
    }
    let denied = ["route=\"/v1/metrics/{name}\"", "method=\"GET\"", "status=\"401\""];
    assert_eq!(value(&query, requests, &denied), Some(1.0), "{query}");
    assert!(value(&query, "tallyhouse_pool_size", &["pool=\"clickhouse_dashboard\""]).is_some_and(|size| size > 0.0));
    assert!(value(&ingest, "tallyhouse_pool_size", &["pool=\"clickhouse_inserts\""]).is_some_and(|size| size > 0.0));
    for (name, labels) in [
        ("tallyhouse_clickhouse_memory_bytes", &[][..]),
        ("tallyhouse_clickhouse_uptime_seconds", &[]),
        ("tallyhouse_clickhouse_parts", &["table=\"migrations\""]),
        ("tallyhouse_clickhouse_partition_parts", &["table=\"migrations\""]),
        ("tallyhouse_clickhouse_disk_free_bytes", &["volume=\""]),
        ("tallyhouse_data_disk_free_bytes", &[]),
    ] {
        assert!(value(&ingest, name, labels).is_some_and(|value| value > 0.0), "{name}:\n{ingest}");
    }
    assert_eq!(value(&ingest, "tallyhouse_clickhouse_merges", &[]).map(f64::is_sign_positive), Some(true));
}
