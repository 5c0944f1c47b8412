//! Components of `/health` that are not up.

use serde_json::Value;

use super::Runbook;
use crate::doctor::Outcome;

/// How bad a component is that the service goes on without.
enum Degraded {
    Page,
    Ticket,
}

/// What to do about a component, and how urgent it is while it is degraded.
fn known(component: &str, detail: &str) -> (Runbook, Degraded) {
    match component {
        "clickhouse" | "inserts" | "clickhouse_breaker" => (Runbook("clickhouse-down"), Degraded::Page),
        "kafka" => (Runbook("kafka-down"), Degraded::Page),
        "kafka_log" => (Runbook("events-lost"), Degraded::Page),
        "log" if detail.contains("disk") => (Runbook("disk-full"), Degraded::Page),
        "log" | "worker" => (Runbook("local-log-growing"), Degraded::Page),
        "store" => (Runbook("poison-record"), Degraded::Page),
        "dead_letters" => (Runbook("poison-record"), Degraded::Ticket),
        "redis" | "rate_limits" => (Runbook("redis-down"), Degraded::Ticket),
        "tls" => (Runbook("certificate-expired"), Degraded::Ticket),
        "control" => (Runbook("clickhouse-down"), Degraded::Ticket),
        _ => (Runbook("instance-down"), Degraded::Ticket),
    }
}

/// One outcome per component that is not up.
pub(super) fn of(health: &Value) -> Vec<Outcome> {
    let Some(components) = health["components"].as_object() else {
        return vec![Outcome::Failed(Runbook("instance-down").told("/health lists no components"))];
    };
    let not_up = components.iter().filter(|(_, component)| component["status"] != "up");
    not_up
        .map(|(name, component)| {
            let detail = component["detail"].as_str().unwrap_or_default();
            let status = component["status"].as_str().unwrap_or("unknown");
            let (runbook, degraded) = known(name, detail);
            let told = runbook.told(&format!("{name} is {status}, {detail}"));
            match (status, degraded) {
                ("degraded", Degraded::Ticket) => Outcome::Warning(told),
                _ => Outcome::Failed(told),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_that_is_not_up_names_a_runbook() {
        let health = serde_json::json!({"components": {
            "clickhouse": {"status": "degraded", "detail": "does not answer: refused"},
            "log": {"status": "down", "detail": "the disk is nearly full"},
            "redis": {"status": "degraded", "detail": "does not answer"},
            "tables": {"status": "up"},
        }});
        let told: Vec<String> = of(&health)
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::Ok(text) => format!("ok {text}"),
                Outcome::Warning(text) => format!("warning {text}"),
                Outcome::Failed(text) => format!("failed {text}"),
            })
            .collect();
        assert_eq!(
            told,
            [
                "failed clickhouse is degraded, does not answer: refused: deploy/runbooks/clickhouse-down.md",
                "failed log is down, the disk is nearly full: deploy/runbooks/disk-full.md",
                "warning redis is degraded, does not answer: deploy/runbooks/redis-down.md",
            ]
        );
    }
}
