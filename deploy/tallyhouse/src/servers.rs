//! The servers whose tables are prepared: one, or all of a cluster, one after the other, each as if it were alone.
//!
//! ```text
//! each server: does remote_servers say what CLICKHOUSE_URL says? -> has it the macros of replicated tables? -> migrations
//! then each: tiers and fsync -> its number
//! ```
//!
//! A server that does not answer holds up no other one: what it misses it gets when the same is run again. Nothing is stored on it before, since it
//! has no number, or has closed its `events_in` for a migration that is under way.

use std::fmt;
use std::time::Duration;

use tallyhouse_service::config::GivenClickHouse;
use tallyhouse_service::env::{self, ConfigError, Env};
use tallyhouse_sql::migrations::{ClusterTables, Topology};
use tallyhouse_sql::shards::{self, MisplacedError};
use tallyhouse_sql::{Connection, Shards, StoreError};

use crate::tables::{self, TableSettings, TablesError};

/// A server that takes longer to say anything counts as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Which servers, and what they are together.
#[derive(Debug, Clone)]
pub struct Servers {
    /// All of them.
    pub shards: Shards,
    /// The name of the cluster in `remote_servers`; `None`: a single server.
    cluster: Option<String>,
}

/// A server that does not answer.
#[derive(Debug)]
pub struct Away {
    /// Where it is.
    pub url: String,
    /// What it is needed for.
    pub is_home: bool,
    /// What happened.
    pub error: TablesError,
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not answer, and is as it was; run this again when it does: {}", self.url, self.error)
    }
}

impl Servers {
    /// The embedded one.
    pub fn embedded(connection: Connection) -> Self {
        Self { shards: connection.into(), cluster: None }
    }

    /// Those that `CLICKHOUSE_URL` and `CLICKHOUSE_CLUSTER` name.
    pub fn given(shards: Shards, env: &dyn Env) -> Result<Self, ConfigError> {
        let cluster = env::read::<GivenClickHouse>(env)?.clickhouse_cluster;
        let servers = shards.servers().len();
        if cluster.is_none() && servers > 1 {
            let problem = format!(
                "is not set, and CLICKHOUSE_URL lists {servers} servers; it is their name in remote_servers (`--cluster NAME`)"
            );
            return Err(ConfigError::new("CLICKHOUSE_CLUSTER", problem));
        }
        Ok(Self { shards, cluster })
    }

    /// Whether they are those of a cluster.
    pub fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Makes the tables of each as they should be. Returns those that do not answer.
    pub async fn prepare(&self, settings: TableSettings) -> Result<Vec<Away>, TablesError> {
        let (mut away, mut migrated) = (Vec::new(), Vec::new());
        for (number, server) in self.shards.servers() {
            if self.cluster.is_some()
                && let Err(error) = answers(&server).await
            {
                away.push(Away { url: server.url, is_home: number == 1, error: error.into() });
                continue;
            }
            let topology = self.topology(number, &server).await?;
            tables::migrate(&server, &topology).await?;
            migrated.push((number, server));
        }
        // Not before: a replica is made only with the TTL that its table has in Keeper, and the files have that without tiers.
        for (number, server) in migrated {
            tables::configure(&server, settings).await?;
            if self.cluster.is_some() {
                shards::record(&server, (number, self.shards.count())).await?;
            }
        }
        Ok(away)
    }

    /// What the tables of a server are made on, which has to be where the list has it.
    pub async fn topology(&self, number: u32, server: &Connection) -> Result<Topology, TablesError> {
        let Some(name) = &self.cluster else { return Ok(Topology::Single) };
        shards::examine(server, name, (number, self.shards.count())).await?;
        let is_replicated = shards::has_macros(server).await.map_err(MisplacedError::from)?;
        if !is_replicated && self.shards.servers().iter().filter(|(other, _)| *other == number).count() > 1 {
            return Err(TablesError::NoMacros(server.url.clone()));
        }
        Ok(Topology::Cluster(ClusterTables { name: name.clone(), is_replicated }))
    }
}

async fn answers(server: &Connection) -> Result<(), MisplacedError> {
    let client = server.server();
    // Read to its end: a connection that is dropped before is an error in ClickHouse's log, with a trace.
    let answer = client.query("SELECT toUInt8(1)").fetch_all::<u8>();
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(answer) => answer.map(drop).map_err(|error| StoreError::from(error).into()),
        Err(_) => Err(StoreError::TimedOut.into()),
    }
}
