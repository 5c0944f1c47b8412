//! Checks for variables that contradict each other, and for variables without effect.

use tallyhouse_service::env::{ConfigError, Env, apart, at_most, unused};

use super::Config;
use super::settings::ProjectDefaults;

/// Refuses what contradicts itself.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let Config { request, pace, dedup, log, .. } = config;
    apart(&[("INGEST_ADDR", config.address), ("INGEST_ADMIN_ADDR", config.admin_address)])?;
    let (body, decoded) = (request.body_bytes, request.decoded_bytes);
    at_most(
        ("INGEST_BODY_BYTES", body),
        ("INGEST_DECODED_BYTES", decoded),
        "a body is as large after decompression at least",
    )?;
    // As `body.rs` reserves: as sent, and inflated.
    let largest = body + decoded;
    if largest > request.open_bytes {
        let problem = format!(
            "{} is less than {largest}, what one compressed body of INGEST_BODY_BYTES may take with INGEST_DECODED_BYTES: it would \
             never be taken",
            request.open_bytes
        );
        return Err(ConfigError::new("INGEST_OPEN_BYTES", problem));
    }
    let [least, most] = [pace.least, pace.most].map(|pace| pace.as_millis());
    at_most(
        ("INGEST_PACE_MS", least),
        ("INGEST_PACE_MOST_MS", most),
        "the shortest time would be more than the longest",
    )?;
    let [age, window] = [log.age, dedup.window].map(|time| time.as_secs() / 3_600);
    if age >= window {
        let problem = format!(
            "{age} is not less than DEDUP_WINDOW_HOURS, which is {window}: what waits longer would be counted twice when it is sent again"
        );
        return Err(ConfigError::new("SPOOL_MAX_AGE_HOURS", problem));
    }
    kafka_leaves_time_for_the_log(config)
}

fn kafka_leaves_time_for_the_log(config: &Config) -> Result<(), ConfigError> {
    let gateway = config.kafka.as_ref().filter(|kafka| kafka.role.has_gateway());
    if gateway.is_some_and(|kafka| 2 * kafka.deliver_within > config.request.ack_timeout) {
        let most = config.request.ack_timeout.as_millis() / 2;
        let problem = format!(
            "may be at most {most}, half of INGEST_ACK_TIMEOUT_MS: what Kafka does not take has to reach the local log in time"
        );
        return Err(ConfigError::new("KAFKA_TIMEOUT_MS", problem));
    }
    Ok(())
}

/// Refuses a window of events that would be gone at once. A project's own settings: [`crate::projects`].
pub(super) fn late_within_retention(defaults: &ProjectDefaults) -> Result<(), ConfigError> {
    let late = ("LATE_WINDOW_DAYS", defaults.late_window_days);
    at_most(late, ("RETENTION_DAYS", defaults.retention_days), "events that late would be taken and removed at once")
}

/// Read only with Kafka.
const OF_KAFKA: [&str; 9] = [
    "INGEST_INSERTS",
    "KAFKA_GROUP",
    "KAFKA_OPTIONS",
    "KAFKA_PARTITIONS",
    "KAFKA_REPLICATION",
    "KAFKA_REVOKE_MS",
    "KAFKA_TIMEOUT_MS",
    "KAFKA_TOPIC",
    "KAFKA_TOPIC_PER_PROJECT",
];

/// A warning for each variable that is set and does nothing.
pub fn without_effect(env: &dyn Env) -> Vec<String> {
    match env.get("KAFKA_BROKERS") {
        None => unused(env, &OF_KAFKA, "without KAFKA_BROKERS"),
        Some(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// What is set, the variable that is refused, and the other one.
    type Case = (&'static [(&'static str, &'static str)], [&'static str; 2]);

    #[test]
    fn contradictions_are_refused_and_name_both() {
        let cases: [Case; 8] = [
            (&[("LATE_WINDOW_DAYS", "31"), ("RETENTION_DAYS", "30")], ["LATE_WINDOW_DAYS", "RETENTION_DAYS"]),
            (&[("RETENTION_DAYS", "6")], ["LATE_WINDOW_DAYS", "RETENTION_DAYS"]),
            (&[("INGEST_DECODED_BYTES", "1048576")], ["INGEST_BODY_BYTES", "INGEST_DECODED_BYTES"]),
            (&[("INGEST_OPEN_BYTES", "20971519")], ["INGEST_OPEN_BYTES", "INGEST_BODY_BYTES"]),
            (&[("INGEST_PACE_MS", "701")], ["INGEST_PACE_MS", "INGEST_PACE_MOST_MS"]),
            (&[("SPOOL_MAX_AGE_HOURS", "24")], ["SPOOL_MAX_AGE_HOURS", "DEDUP_WINDOW_HOURS"]),
            (&[("INGEST_ADMIN_ADDR", "127.0.0.1:8081")], ["INGEST_ADMIN_ADDR", "INGEST_ADDR"]),
            (&[("KAFKA_BROKERS", "b"), ("KAFKA_TIMEOUT_MS", "5001")], ["KAFKA_TIMEOUT_MS", "INGEST_ACK_TIMEOUT_MS"]),
        ];
        for (pairs, [first, second]) in cases {
            let error = Config::from_env(&env(pairs)).map(drop).unwrap_err();
            assert_eq!(error.variable, first, "{error}");
            assert!(error.problem.contains(second), "{error}");
        }
    }

    #[test]
    fn the_edges_are_no_contradictions() {
        let edges = [
            ("LATE_WINDOW_DAYS", "30"),
            ("RETENTION_DAYS", "30"),
            ("INGEST_BODY_BYTES", "16777216"),
            ("INGEST_OPEN_BYTES", "33554432"),
            ("INGEST_PACE_MS", "700"),
            ("SPOOL_MAX_AGE_HOURS", "23"),
        ];
        assert!(Config::from_env(&env(&edges)).is_ok());
    }

    #[test]
    fn what_does_nothing_is_reported() {
        let mut set = env(&[("KAFKA_TOPIC", "t"), ("INGEST_BATCH_ROWS", "1")]);
        assert_eq!(without_effect(&set), ["KAFKA_TOPIC has no effect without KAFKA_BROKERS"]);
        set.extend(env(&[("KAFKA_BROKERS", "b")]));
        assert_eq!(without_effect(&set), <[String; 0]>::default());
    }
}
