//! The dependencies of the service: connections, keys, declarations, and the metrics registry.

use std::sync::Arc;

use tallyhouse_control::privacy::hash_key::InstallationKey;
use tallyhouse_control::{Control, LiveCatalogue};
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::day_versions::DayVersions;
use tallyhouse_service::health::Health;
use tallyhouse_service::metrics::Registry;
use tallyhouse_sql::{Connection, Shards};

use crate::clock::{Clock, Random};

/// What the service works with.
pub struct Deps {
    /// ClickHouse, as a user that can only read.
    pub shards: Shards,
    /// ClickHouse (of a cluster, its first shard), as a user that can write metric definitions; without one none can be registered.
    pub writer: Option<Connection>,
    /// ClickHouse, as the user for analysts' SQL; without it there is no `/v1/sql`.
    pub analyst: Option<Connection>,
    /// Who may ask. Whoever makes it keeps it up to date ([`Control::run`]).
    pub control: Control,
    /// Under which people are hashed; without it nobody can be erased here.
    pub user_hash_key: Option<InstallationKey>,
    /// What is rolled up.
    pub catalogue: LiveCatalogue,
    /// Where the service says how it is.
    pub health: Health,
    /// Where its metrics go.
    pub registry: Registry,
    pub clock: Clock,
    pub random: Random,
    /// What the ingester of this process wrote, if it has one. Not asked when there is a Redis.
    pub days: Option<DayVersions>,
}

impl Deps {
    /// Real time and real randomness, fresh health and metrics.
    pub fn new(shards: impl Into<Shards>, control: Control, catalogue: LiveCatalogue) -> Self {
        Self {
            shards: shards.into(),
            writer: None,
            analyst: None,
            control,
            user_hash_key: None,
            catalogue,
            health: Health::default(),
            registry: Registry::new(),
            clock: Arc::new(now_ms),
            random: Arc::new(rand::random::<f64>),
            days: None,
        }
    }
}
