//! A client of each shard, for work that is about all of them: erasing a person, deleting a project, exporting what is kept about a person.
//!
//! Before it is begun, and before each step, [`AllShards::require`] asks every shard whether it is there and in its place, within seconds. So
//! work waits for a shard that is away, and is never done while one was not looked at:
//!
//! * a list that is shorter than what a server has recorded is refused: the shards that it leaves out would keep their rows;
//! * one in another order is refused as well: what was noted of a shard would be taken for another one's.
//!
//! A single server is one shard. It is asked only whether it is one of several.

use std::time::Duration;

use clickhouse::{Client, Row};
use serde::Deserialize;

use crate::connection::Connection;
use crate::error::StoreError;
use crate::rollups::within;
use crate::shards::Shards;

/// A shard that takes longer to say who it is counts as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A client of each, in order.
#[derive(Clone)]
pub struct AllShards {
    home: Client,
    others: Vec<Client>,
}

/// Why work that is about all shards has to wait.
#[derive(Debug, thiserror::Error)]
pub enum ShardsError {
    /// It is begun again when the shard is back.
    #[error("shard {number} does not answer, and is waited for: {source}")]
    Away {
        /// From 1.
        number: u32,
        /// What happened.
        source: StoreError,
    },
    /// Its own record says otherwise; 0: it has none.
    #[error(
        "the server that CLICKHOUSE_URL lists as shard {listed} is shard {found} by its own record; list them in the order in which they were added"
    )]
    Misplaced {
        /// What the list says.
        listed: u32,
        /// What it is.
        found: u32,
    },
    /// The list leaves some out.
    #[error("the cluster has {known} shards, and CLICKHOUSE_URL lists {listed}; list all of them")]
    Unlisted {
        /// Shards that a server has recorded.
        known: u64,
        /// Shards of the list.
        listed: u64,
    },
    /// The single server.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a server has recorded.
#[derive(Debug, Default, Row, Deserialize)]
struct Record {
    here: u32,
    known: u64,
}

impl AllShards {
    /// Those of a list.
    pub fn of(shards: &Shards) -> Self {
        let mut clients = shards.iter().map(Connection::client);
        Self { home: clients.next().unwrap_or_else(|| shards.home().client()), others: clients.collect() }
    }

    /// The first, which has what is not about events.
    pub const fn home(&self) -> &Client {
        &self.home
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        std::iter::once(&self.home).chain(&self.others)
    }

    /// All, with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (u32, &Client)> {
        (1..).zip(self.iter())
    }

    /// How many.
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// Whether there are several.
    pub fn is_cluster(&self) -> bool {
        !self.others.is_empty()
    }

    /// Whether all that there are are listed, there, and in their places.
    pub async fn require(&self) -> Result<(), ShardsError> {
        let listed = self.count() as u64;
        if !self.is_cluster() {
            let Record { known, .. } = recorded(&self.home).await?;
            return if known > 1 { Err(ShardsError::Unlisted { known, listed }) } else { Ok(()) };
        }
        for (number, client) in self.numbered() {
            let answer = tokio::time::timeout(ANSWER_WITHIN, recorded(client)).await;
            let answer = answer.unwrap_or(Err(StoreError::TimedOut));
            let Record { here, known } = answer.map_err(|source| ShardsError::Away { number, source })?;
            if here != number {
                return Err(ShardsError::Misplaced { listed: number, found: here });
            }
            if known > listed {
                return Err(ShardsError::Unlisted { known, listed });
            }
        }
        Ok(())
    }
}

impl From<Client> for AllShards {
    /// A single server.
    fn from(home: Client) -> Self {
        Self { home, others: Vec::new() }
    }
}

async fn recorded(client: &Client) -> Result<Record, StoreError> {
    let sql =
        "SELECT toUInt32(maxIf(number, is_here = 1)) AS here, uniqExact(number) AS known FROM tallyhouse.shards FINAL";
    match within(client.query(sql).fetch_one::<Record>()).await {
        Ok(record) => Ok(record),
        // No such table or database: a single server.
        Err(StoreError::Refused { code: 60 | 81, .. }) => Ok(Record::default()),
        Err(error) => Err(error),
    }
}
