//! Reports refused batches in `/health`: the worst of them. A batch may end anywhere, also when its partition is revoked, so its
//! report ends when a value is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tallyhouse_service::health::Status;
use ulid::Ulid;

use crate::store::Store;

const COMPONENT: &str = "store";

/// Why a batch waits.
pub(super) struct Trouble {
    pub(super) status: Status,
    /// No event is taken, of this batch or another.
    pub(super) is_everything: bool,
    pub(super) detail: String,
}

/// Troubles of all batches of this process.
#[derive(Clone, Default)]
pub(super) struct Troubles(Arc<Mutex<BTreeMap<Ulid, Trouble>>>);

impl Troubles {
    /// For one batch, which has none yet.
    pub(super) fn of_batch(&self, store: &Store) -> BatchTrouble {
        BatchTrouble { id: Ulid::generate(), troubles: self.clone(), store: store.clone() }
    }
}

/// The trouble of one batch, until it is dropped.
pub(super) struct BatchTrouble {
    id: Ulid,
    troubles: Troubles,
    store: Store,
}

impl BatchTrouble {
    pub(super) fn set(&self, trouble: Trouble) {
        self.change(|troubles| {
            troubles.insert(self.id, trouble);
        });
    }

    /// Changes it, and says what is the worst now.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<Ulid, Trouble>)) {
        let mut troubles = self.troubles.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut troubles);
        self.store.metrics.refusals.store_refuses.set(troubles.values().any(|trouble| trouble.is_everything).into());
        let worst = troubles.values().max_by_key(|trouble| (trouble.status == Status::Down, trouble.is_everything));
        let (status, detail) = worst.map_or((Status::Up, ""), |worst| (worst.status, &worst.detail));
        self.store.health.set(COMPONENT, status, detail);
    }
}

impl Drop for BatchTrouble {
    fn drop(&mut self) {
        self.change(|troubles| {
            troubles.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tallyhouse_service::day_versions::DayVersions;
    use tallyhouse_service::health::Health;
    use tallyhouse_service::metrics::Registry;
    use tallyhouse_sql::clickhouse::Client;

    use super::*;
    use crate::changed_days::Publisher;
    use crate::telemetry::Metrics;

    #[test]
    fn the_worst_trouble_is_reported_until_its_batch_ends() {
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        let store = Store {
            tracer: None,
            client: Client::default(),
            shard: 1,
            everything: Client::default(),
            timeout: Duration::from_secs(1),
            metrics: Arc::clone(&metrics),
            health: Health::default(),
            changed_days: Publisher::new(DayVersions::default(), false, metrics),
        };
        let told = || {
            let component = store.health.report().components[COMPONENT].clone();
            (component.status, component.detail, store.metrics.refusals.store_refuses.get())
        };
        let trouble =
            |status, is_everything, detail: &str| Trouble { status, is_everything, detail: detail.to_owned() };
        let troubles = Troubles::default();
        let (first, second) = (troubles.of_batch(&store), troubles.of_batch(&store));
        first.set(trouble(Status::Down, true, "everything"));
        second.set(trouble(Status::Degraded, false, "most"));
        assert_eq!(told(), (Status::Down, "everything".to_owned(), 1));
        drop(first);
        assert_eq!(told(), (Status::Degraded, "most".to_owned(), 0));
        drop(second);
        assert_eq!(told(), (Status::Up, String::new(), 0));
    }
}
