//! Figures of `/metrics` that are beyond their bounds: the thresholds of deploy/prometheus/alerts.rules.yml, as far as a single look tells.

use super::Runbook;
use super::exposition::Exposition;
use crate::doctor::Outcome;

/// How several series become one figure.
#[derive(Clone, Copy)]
enum Of {
    Most,
    Least,
    Sum,
}

/// When a figure is one too many.
#[derive(Clone, Copy)]
enum Beyond {
    Above(f64),
    Below(f64),
}

#[derive(Clone, Copy)]
enum Urgency {
    Page,
    Ticket,
}

struct Bound {
    metric: &'static str,
    label: &'static str,
    of: Of,
    beyond: Beyond,
    urgency: Urgency,
    /// What is wrong then; the figure stands before it.
    says: &'static str,
    runbook: Runbook,
}

const BOUNDS: [Bound; 11] = [
    bound(
        "tallyhouse_ingest_log_oldest_seconds",
        Of::Most,
        Beyond::Above(300.0),
        Urgency::Ticket,
        "seconds that an event waits in the local log",
        "local-log-growing",
    ),
    bound(
        "tallyhouse_ingest_store_refuses_everything",
        Of::Most,
        Beyond::Above(0.0),
        Urgency::Page,
        "means that ClickHouse refuses every event",
        "poison-record",
    ),
    bound(
        "tallyhouse_ingest_log_lost_records_total",
        Of::Sum,
        Beyond::Above(0.0),
        Urgency::Page,
        "events of the local log were lost since the start",
        "events-lost",
    ),
    bound(
        "tallyhouse_ingest_kafka_lost_records_total",
        Of::Sum,
        Beyond::Above(0.0),
        Urgency::Page,
        "records were removed by Kafka before they were read",
        "events-lost",
    ),
    bound(
        "tallyhouse_ingest_kafka_log_ends_lost_total",
        Of::Sum,
        Beyond::Above(0.0),
        Urgency::Page,
        "ends of partitions were lost by a broker",
        "events-lost",
    ),
    bound(
        "tallyhouse_ingest_kafka_consumer_lag",
        Of::Sum,
        Beyond::Above(100_000.0),
        Urgency::Page,
        "records wait in Kafka",
        "lag",
    ),
    bound(
        "tallyhouse_ingest_blocked_partitions",
        Of::Sum,
        Beyond::Above(0.0),
        Urgency::Page,
        "partitions stand still until somebody acts",
        "lag",
    ),
    bound(
        "tallyhouse_query_clickhouse_breaker",
        Of::Most,
        Beyond::Above(1.5),
        Urgency::Page,
        "is the state of the breaker to ClickHouse: open",
        "clickhouse-down",
    ),
    bound(
        "tallyhouse_query_waiting",
        Of::Sum,
        Beyond::Above(64.0),
        Urgency::Page,
        "questions wait for ClickHouse",
        "stampede",
    ),
    bound(
        "tallyhouse_query_cache_silent_writers",
        Of::Most,
        Beyond::Above(0.0),
        Urgency::Ticket,
        "ingesters do not say what they stored",
        "redis-down",
    ),
    bound(
        "tallyhouse_tls_certificate_remaining_seconds",
        Of::Least,
        Beyond::Below(14.0 * 86_400.0),
        Urgency::Ticket,
        "seconds are left of the certificate",
        "certificate-expired",
    ),
];

const fn bound(
    metric: &'static str,
    of: Of,
    beyond: Beyond,
    urgency: Urgency,
    says: &'static str,
    runbook: &'static str,
) -> Bound {
    Bound { metric, label: "", of, beyond, urgency, says, runbook: Runbook(runbook) }
}

impl Bound {
    /// The figure; `None` where the service has none.
    fn figure(&self, metrics: &Exposition) -> Option<f64> {
        let values = metrics.values(self.metric, self.label);
        values.reduce(|one, other| match self.of {
            Of::Most => one.max(other),
            Of::Least => one.min(other),
            Of::Sum => one + other,
        })
    }

    fn is_beyond(&self, figure: f64) -> bool {
        match self.beyond {
            Beyond::Above(bound) => figure > bound,
            Beyond::Below(bound) => figure < bound,
        }
    }
}

/// One outcome per figure that is beyond its bound.
pub(super) fn of(metrics: &Exposition) -> Vec<Outcome> {
    let beyond = BOUNDS.iter().filter_map(|bound| Some((bound, bound.figure(metrics)?)));
    beyond
        .filter(|(bound, figure)| bound.is_beyond(*figure))
        .map(|(bound, figure)| {
            let told = bound.runbook.told(&format!("{} {}", (figure * 10.0).round() / 10.0, bound.says));
            match bound.urgency {
                Urgency::Page => Outcome::Failed(told),
                Urgency::Ticket => Outcome::Warning(told),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_beyond_its_bound_names_the_runbook() {
        let text = "tallyhouse_ingest_kafka_consumer_lag{partition=\"0\"} 60000\n\
            tallyhouse_ingest_kafka_consumer_lag{partition=\"1\"} 60000\ntallyhouse_tls_certificate_remaining_seconds 280800\n";
        let lag = Outcome::Failed("120000 records wait in Kafka: deploy/runbooks/lag.md".to_owned());
        let ends = Outcome::Warning(
            "280800 seconds are left of the certificate: deploy/runbooks/certificate-expired.md".to_owned(),
        );
        assert_eq!(of(&Exposition::of(text)), [lag, ends]);
    }

    #[test]
    fn what_a_service_does_not_show_is_no_finding() {
        assert_eq!(of(&Exposition::of("tallyhouse_ingest_log_oldest_seconds 2\n")), []);
    }
}
