//! Health and readiness of the process and its dependencies, served by the admin port.
//!
//! *Live* means that the process answers at all. *Ready* means that it should be sent requests: every required
//! component is up and shutdown has not begun. At shutdown the process is first not ready, then it drains.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

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
    /// Why, for people. Never a secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
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
    pub components: BTreeMap<String, Component>,
}

impl Health {
    /// Says how a component is; a new name becomes a new component.
    pub fn set(&self, component: &str, status: Status, detail: impl Into<String>) {
        if let Ok(mut state) = self.state.write() {
            state.components.insert(component.to_owned(), Component { status, detail: detail.into() });
        }
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
            return Report { status: Status::Down, ready: false, components: BTreeMap::new() };
        };
        let any = |status| state.components.values().any(|component| component.status == status);
        let status = match () {
            () if state.draining || any(Status::Down) => Status::Down,
            () if any(Status::Degraded) => Status::Degraded,
            () => Status::Up,
        };
        Report { status, ready: status != Status::Down, components: state.components.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_every_required_component_and_no_drain() {
        let health = Health::default();
        health.set("clickhouse", Status::Down, "starting");
        assert!(!health.is_ready());
        health.set("clickhouse", Status::Up, "");
        health.set("redis", Status::Degraded, "refused");
        assert!(health.is_ready());
        assert_eq!(health.report().status, Status::Degraded);
        health.begin_drain();
        assert!(!health.is_ready());
    }
}
