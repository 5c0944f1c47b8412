//! Health and readiness of the process and its dependencies, served by the admin port.
//!
//! ```text
//! a component changes its status -> one log line (as it was told, recovery is) -> `/health`, with since when
//! ```
//!
//! *Live* means that the process answers at all. *Ready* means that it should be sent requests: no component is down, and
//! shutdown has not begun. A component is *degraded* when it does not work and the service goes on without it, and *down* when the
//! service needs it. At shutdown the process is first not ready, then it drains.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use jiff::Timestamp;
use serde::Serialize;

/// How a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Up,
    /// Not working, and the service goes on without it.
    Degraded,
    /// Not working, and the service needs it.
    Down,
}

/// A component's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    pub status: Status,
    /// Since when it has this status: RFC 3339, UTC.
    pub since: Timestamp,
    /// Why, for people. Never a secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// It has not been up yet.
    #[serde(skip)]
    is_starting: bool,
}

#[derive(Debug, Default)]
struct HealthState {
    components: BTreeMap<String, Component>,
    draining: bool,
}

/// The health of a process; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    state: Arc<RwLock<HealthState>>,
}

/// The whole picture, as `/health` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The worst component, or `down` while draining.
    pub status: Status,
    /// Whether requests should be sent here.
    pub ready: bool,
    /// The process: who starts one beside another knows which of them answers.
    pub pid: u32,
    pub components: BTreeMap<String, Component>,
}

/// A status that was another one before.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    status: Status,
    after: Option<Timestamp>,
}

impl Health {
    /// Says how a component is; a new name becomes a new component. A change of its status is logged.
    pub fn set(&self, component: &str, status: Status, detail: impl Into<String>) {
        let (detail, now) = (detail.into(), second(Timestamp::now()));
        if let Some(change) =
            self.change(component, Component { status, since: now, detail: detail.clone(), is_starting: false })
        {
            change.log(component, &detail, now);
        }
    }

    /// Says that a component is not up yet. That is no failure, and is not logged as one.
    pub fn starting(&self, component: &str, status: Status, detail: impl Into<String>) {
        let now = second(Timestamp::now());
        self.change(component, Component { status, since: now, detail: detail.into(), is_starting: true });
    }

    fn change(&self, name: &str, new: Component) -> Option<Change> {
        let mut state = self.state.write().ok()?;
        let Some(known) = state.components.get_mut(name) else {
            let change = (new.status != Status::Up).then_some(Change { status: new.status, after: None });
            state.components.insert(name.to_owned(), new);
            return change;
        };
        let has_failed_to_start = known.is_starting && !new.is_starting && new.status != Status::Up;
        if known.status == new.status && !has_failed_to_start {
            known.detail = new.detail;
            known.is_starting &= new.is_starting;
            return None;
        }
        let after = (!known.is_starting).then_some(known.since);
        let change = Change { status: new.status, after };
        *known = new;
        Some(change)
    }

    /// Turns readiness off for good: shutdown has begun.
    pub fn begin_drain(&self) {
        if let Ok(mut state) = self.state.write() {
            state.draining = true;
        }
    }

    /// Whether requests should be sent here.
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }

    pub fn report(&self) -> Report {
        let Ok(state) = self.state.read() else {
            return Report { status: Status::Down, ready: false, pid: std::process::id(), components: BTreeMap::new() };
        };
        let any = |status| state.components.values().any(|component| component.status == status);
        let status = match () {
            () if state.draining || any(Status::Down) => Status::Down,
            () if any(Status::Degraded) => Status::Degraded,
            () => Status::Up,
        };
        Report { status, ready: status != Status::Down, pid: std::process::id(), components: state.components.clone() }
    }
}

impl Change {
    fn log(&self, component: &str, detail: &str, now: Timestamp) {
        match (self.status, self.after) {
            (Status::Up, Some(since)) => {
                let seconds = now.as_second() - since.as_second();
                tracing::info!(component, seconds, "up again");
            }
            (Status::Up, None) => tracing::info!(component, "up"),
            (Status::Degraded, _) => tracing::warn!(component, detail, "degraded"),
            (Status::Down, _) => tracing::error!(component, detail, "down"),
        }
    }
}

/// Nobody needs to know it more closely.
fn second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_every_required_component_and_no_drain() {
        let health = Health::default();
        health.starting("clickhouse", Status::Down, "starting");
        assert!(!health.is_ready());
        health.set("clickhouse", Status::Up, "");
        health.set("redis", Status::Degraded, "refused");
        assert!(health.is_ready());
        assert_eq!(health.report().status, Status::Degraded);
        health.begin_drain();
        assert!(!health.is_ready());
    }

    fn at(second: i64, status: Status, detail: &str) -> Component {
        let since = Timestamp::from_second(second).unwrap();
        Component { status, since, detail: detail.to_owned(), is_starting: false }
    }

    #[test]
    fn only_a_change_of_the_status_is_told_and_counts_as_since() {
        let health = Health::default();
        assert_eq!(health.change("log", at(1, Status::Up, "")), None);
        let down = Change { status: Status::Down, after: Timestamp::from_second(1).ok() };
        assert_eq!(health.change("log", at(5, Status::Down, "full")), Some(down));
        assert_eq!(health.change("log", at(7, Status::Down, "the disk is nearly full")), None);
        assert_eq!(health.report().components["log"], at(5, Status::Down, "the disk is nearly full"));
        let up = Change { status: Status::Up, after: Timestamp::from_second(5).ok() };
        assert_eq!(health.change("log", at(9, Status::Up, "")), Some(up));
    }

    #[test]
    fn a_start_is_no_recovery() {
        let health = Health::default();
        health.starting("kafka", Status::Down, "not reached yet");
        health.starting("kafka", Status::Down, "still not reached");
        let up = Change { status: Status::Up, after: None };
        assert_eq!(health.change("kafka", at(9, Status::Up, "")), Some(up));
    }

    #[test]
    fn a_start_that_fails_is_told() {
        let health = Health::default();
        health.starting("clickhouse", Status::Down, "not asked yet");
        let down = Some(Change { status: Status::Down, after: None });
        assert_eq!(health.change("clickhouse", at(9, Status::Down, "does not answer")), down);
        assert_eq!(health.change("clickhouse", at(11, Status::Down, "does not answer")), None);
    }

    #[test]
    fn health_says_since_when() {
        let json = serde_json::to_value(at(1_800_000_000, Status::Degraded, "does not answer")).unwrap();
        let told =
            serde_json::json!({"status": "degraded", "since": "2027-01-15T08:00:00Z", "detail": "does not answer"});
        assert_eq!(json, told);
    }
}
