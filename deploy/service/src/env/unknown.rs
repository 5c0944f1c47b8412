//! Reports variables that are set but not defined, mostly misspelt ones.

use strsim::osa_distance;

use super::{Env, file};

/// Every variable of every program: a deployment shares one file of them. A test of `tallyhouse` compares it with what is defined.
pub const NAMES: &[&str] = &[
    "ADMIN_CLIENT_CA",
    "ADMIN_CLIENT_CERT",
    "ADMIN_CLIENT_KEY",
    "ADMIN_HOSTS",
    "ADMIN_TOKEN",
    "ADMIN_TOKEN_FILE",
    "BACKUP_CLICKHOUSE",
    "BACKUP_DIR",
    "BACKUP_S3_ENDPOINT",
    "BACKUP_S3_KEY_ID",
    "BACKUP_S3_REGION",
    "BACKUP_S3_SECRET",
    "BACKUP_S3_SECRET_FILE",
    "BACKUP_TARGET",
    "CANARY",
    "CANARY_EVERY_MS",
    "CANARY_INGEST_URL",
    "CANARY_KEY",
    "CANARY_KEY_FILE",
    "CLICKHOUSE_ANALYST_PASSWORD",
    "CLICKHOUSE_ANALYST_PASSWORD_FILE",
    "CLICKHOUSE_ANALYST_USER",
    "CLICKHOUSE_CA",
    "CLICKHOUSE_CLIENT_NETWORKS",
    "CLICKHOUSE_CLUSTER",
    "CLICKHOUSE_COLD_DAYS",
    "CLICKHOUSE_FSYNC",
    "CLICKHOUSE_HTTP_PORT",
    "CLICKHOUSE_LISTEN",
    "CLICKHOUSE_PASSWORD",
    "CLICKHOUSE_PASSWORD_FILE",
    "CLICKHOUSE_TCP_PORT",
    "CLICKHOUSE_URL",
    "CLICKHOUSE_USER",
    "CLICKHOUSE_WARM_DAYS",
    "CLICKHOUSE_WRITER_PASSWORD",
    "CLICKHOUSE_WRITER_PASSWORD_FILE",
    "CLICKHOUSE_WRITER_USER",
    "DEDUP_WINDOW_HOURS",
    "DEDUP_WINDOW_IDS",
    "DIMENSION_VALUES",
    "DRIFT_CHECK_MINUTES",
    "GRAFANA_PROJECTS",
    "INGEST_ACK_TIMEOUT_MS",
    "INGEST_ADDR",
    "INGEST_ADMIN_ADDR",
    "INGEST_BATCH_BYTES",
    "INGEST_BATCH_ROWS",
    "INGEST_BODY_BYTES",
    "INGEST_DECODED_BYTES",
    "INGEST_DRAIN_MS",
    "INGEST_INSERTS",
    "INGEST_INSERT_PERCENT",
    "INGEST_LINGER_MS",
    "INGEST_OPEN_BYTES",
    "INGEST_PACE_MOST_MS",
    "INGEST_PACE_MS",
    "INGEST_ROLE",
    "JWKS_URL",
    "JWT_AUDIENCE",
    "JWT_CLAIM",
    "JWT_ISSUER",
    "JWT_SECRET",
    "JWT_SECRET_FILE",
    "KAFKA_BROKERS",
    "KAFKA_GROUP",
    "KAFKA_OPTIONS",
    "KAFKA_OPTIONS_FILE",
    "KAFKA_PARTITIONS",
    "KAFKA_REPLICATION",
    "KAFKA_REVOKE_MS",
    "KAFKA_TIMEOUT_MS",
    "KAFKA_TOPIC",
    "KAFKA_TOPIC_PER_PROJECT",
    "LATE_WINDOW_DAYS",
    "LOG_FILE",
    "LOG_FILE_BYTES",
    "LOG_FILE_COUNT",
    "LOG_REDACT",
    "LOG_SYNC",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS_FILE",
    "OTEL_TRACES_SAMPLER_ARG",
    "QUERY_ADDR",
    "QUERY_ADMIN_ADDR",
    "QUERY_CACHE_BYTES",
    "QUERY_CACHE_TTL_MS",
    "QUERY_CACHE_WARM",
    "QUERY_CLICKHOUSE_CONCURRENCY",
    "QUERY_CONCURRENCY_ADHOC",
    "QUERY_CONCURRENCY_DASHBOARD",
    "QUERY_CONCURRENCY_REALTIME",
    "QUERY_CONCURRENCY_STREAM",
    "QUERY_DEADLINE_ADHOC_MS",
    "QUERY_DEADLINE_DASHBOARD_MS",
    "QUERY_DEADLINE_REALTIME_MS",
    "QUERY_DEADLINE_STREAM_MS",
    "QUERY_DRAIN_MS",
    "QUERY_EXPORT_CONCURRENCY",
    "QUERY_EXPORT_MAX_BYTES",
    "QUERY_EXPORT_STALL_MS",
    "QUERY_LOOK_UP_MS",
    "QUERY_ORIGINS",
    "QUERY_PARTIAL",
    "QUERY_QUEUE_ADHOC",
    "QUERY_QUEUE_DASHBOARD",
    "QUERY_QUEUE_REALTIME",
    "QUERY_QUEUE_STREAM",
    "QUERY_STREAM_LISTENERS",
    "QUERY_STREAM_LISTENERS_PER_PROJECT",
    "QUERY_STREAM_QUESTIONS",
    "QUERY_STREAM_QUESTIONS_PER_PROJECT",
    "RATE_LIMITS",
    "RATE_LIMIT_ADMIN_REQUESTS",
    "RATE_LIMIT_INSTANCES",
    "RATE_LIMIT_REQUESTS",
    "REDIS_CA",
    "REDIS_CLIENT_CERT",
    "REDIS_CLIENT_KEY",
    "REDIS_URL",
    "REDIS_URL_FILE",
    "REFUSED_GRACE_MS",
    "RETENTION_DAYS",
    "SPOOL_BYTES",
    "SPOOL_MAX_AGE_HOURS",
    "TALLYHOUSE_CAGE",
    "TALLYHOUSE_CONNECTIONS",
    "TALLYHOUSE_CONNECTIONS_PER_ADDRESS",
    "TALLYHOUSE_DATA",
    "TALLYHOUSE_DEV",
    "TALLYHOUSE_ENGINE",
    "TALLYHOUSE_ENGINE_LIBRARY",
    "TALLYHOUSE_ENV_FILE",
    "TALLYHOUSE_IDLE_MS",
    "TALLYHOUSE_KEY",
    "TALLYHOUSE_KEY_FILE",
    "TALLYHOUSE_LOG",
    "TALLYHOUSE_PROJECT",
    "TALLYHOUSE_PROJECTS",
    "TALLYHOUSE_SCHEMAS",
    "TALLYHOUSE_SHUTDOWN_DELAY_MS",
    "TALLYHOUSE_URL",
    "TLS_CERT",
    "TLS_KEY",
    "TLS_MIN_VERSION",
    "TRUSTED_PROXIES",
    "TRUSTED_PROXY_HEADER",
    "USER_HASH_KEY",
    "USER_HASH_KEY_FILE",
];

/// Nobody else's variables begin so. Every other beginning of [`NAMES`] is shared with other programs.
const OURS: [&str; 5] = ["DEDUP_", "INGEST_", "QUERY_", "SPOOL_", "TALLYHOUSE_"];

/// Logs what [`unknown`] finds, and files of secrets that everybody may read.
pub fn warn_of_unknown(env: &dyn Env) {
    unknown(env).iter().chain(&file::open_to_all(env)).for_each(|warning| tracing::warn!("{warning}"));
}

/// A warning for each variable that looks like one of ours and is none.
pub fn unknown(env: &dyn Env) -> Vec<String> {
    let (mut names, of_file) = (env.names(), env.names_of_file());
    names.sort();
    names.iter().filter_map(|name| warning_in(name, of_file.contains(name))).collect()
}

#[cfg(test)]
fn warning(name: &str) -> Option<String> {
    warning_in(name, false)
}

/// In a file that is Tallyhouse's alone, `KAFKA_…` and `REDIS_…` are meant for it too.
fn warning_in(name: &str, is_in_our_file: bool) -> Option<String> {
    if NAMES.contains(&name) || is_service_link(name) {
        return None;
    }
    if let Some(known) = file::secret_of(name).filter(|known| NAMES.contains(known)) {
        return Some(format!(
            "{name} is not a variable of Tallyhouse: only secrets are read from files, and {known} is none"
        ));
    }
    let begins_as_ours = |known: &str| known.split_once('_').is_some_and(|(head, _)| begins(name, head));
    let is_ours = OURS.iter().any(|prefix| name.starts_with(prefix))
        || (is_in_our_file && NAMES.iter().any(|known| begins_as_ours(known)));
    // Half of a name of ours may be wrong; one that may be somebody else's has to be nearly right.
    let share = if is_ours { 2 } else { 5 };
    let near = NAMES.iter().filter(|known| is_ours || begins_as_ours(known)).filter_map(|known| {
        let (distance, tail) = (osa_distance(name, known), known.split_once('_').map_or(0, |(_, tail)| tail.len()));
        (distance <= (tail / share).max(1)).then_some((distance, known))
    });
    match near.min_by_key(|(distance, _)| *distance) {
        Some((_, known)) => Some(format!("{name} is not a variable of Tallyhouse; did you mean {known}?")),
        None => is_ours.then(|| format!("{name} is not a variable of Tallyhouse; `--help` lists them")),
    }
}

fn begins(name: &str, head: &str) -> bool {
    name.strip_prefix(head).is_some_and(|rest| rest.starts_with('_'))
}

/// What Kubernetes sets in every container for a service that is called `ingest` or `tallyhouse`.
fn is_service_link(name: &str) -> bool {
    let is_port = |text: &str| {
        text.is_empty() || text.strip_prefix('_').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.rsplit_once("_PORT").is_some_and(|(_, rest)| is_port(rest))
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_reported_with_the_nearest() {
        let cases = [
            ("INGEST_BATCH_ROW", "INGEST_BATCH_ROWS"),
            ("QUERY_CACHE_TTL", "QUERY_CACHE_TTL_MS"),
            ("TALLYHOUSE_SCHEMA", "TALLYHOUSE_SCHEMAS"),
            ("KAFKA_BROKER", "KAFKA_BROKERS"),
            ("CLICKHOUSE_URI", "CLICKHOUSE_URL"),
            ("RETENTION_DAY", "RETENTION_DAYS"),
            ("SPOOL_MAX_AGE_HOUR", "SPOOL_MAX_AGE_HOURS"),
        ];
        for (name, known) in cases {
            let expected = format!("{name} is not a variable of Tallyhouse; did you mean {known}?");
            assert_eq!(warning(name), Some(expected));
        }
        assert_eq!(
            warning("TALLYHOUSE_SOMETHING_ELSE").unwrap(),
            "TALLYHOUSE_SOMETHING_ELSE is not a variable of Tallyhouse; `--help` lists them"
        );
        assert!(
            warning("KAFKA_BROKERS_FILE")
                .unwrap()
                .ends_with("only secrets are read from files, and KAFKA_BROKERS is none")
        );
        assert!(warning("REDIS_URL_FIL").unwrap().ends_with("did you mean REDIS_URL_FILE?"));
    }

    #[test]
    fn in_a_file_of_ours_each_that_begins_as_ours_is_reported() {
        let told = |name| warning_in(name, true);
        assert!(told("KAFKA_RETRIES").unwrap().ends_with("`--help` lists them"));
        assert!(told("KAFKA_TOPICS").unwrap().ends_with("did you mean KAFKA_TOPIC?"));
        assert!(told("CLICKHOUSE_PASS").unwrap().contains("did you mean CLICKHOUSE_"));
        assert_eq!((told("SSL_CERT_FILE"), told("TZ"), told("KAFKA_TOPIC")), (None, None, None));
    }

    #[test]
    fn known_variables_and_those_of_others_are_left_alone() {
        let others = [
            "KAFKA_HOME",
            "KAFKA_OPTS",
            "KAFKA_TESTS",
            "KAFKA_BROKER_COUNT",
            "KAFKA_HEAP_OPTS",
            "CLICKHOUSE_DB",
            "CLICKHOUSE_UID",
            "CLICKHOUSE_GID",
            "CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT",
            "LOG_LEVEL",
            "USER",
            "REDIS_PORT_6379_TCP",
            "PATH",
            "INGEST_SERVICE_HOST",
            "INGEST_SERVICE_PORT_HTTP",
            "INGEST_PORT",
            "QUERY_API_PORT_8082_TCP_ADDR",
        ];
        for name in NAMES.iter().chain(&others) {
            assert_eq!(warning(name), None, "{name}");
        }
    }
}
