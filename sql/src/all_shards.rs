//! A client of each shard, for work that is about all of them: erasing a person, deleting a project, exporting what is kept about a person.
//!
//! Before it is begun, and before each step, [`AllShards::require`] asks every shard whether it is there and in its place, within seconds. So
//! work waits for a shard that is away, and is never done while one was not looked at:
//!
//! * a list that is shorter than what a server has recorded is refused: the shards that it leaves out would keep their rows;
//! * one in another order is refused as well: what was noted of a shard would be taken for another one's.
//!
//! A single server is one shard. It is asked only whether it is one of several.

use clickhouse::Client;

use crate::connection::Connection;
use crate::error::StoreError;
use crate::rollups::is_replicated;
use crate::shards::{ANSWER_WITHIN, Shards, recorded};

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
    /// Its own record says otherwise.
    #[error(
        "the server that CLICKHOUSE_URL lists as shard {listed} is shard {found} by its own record; list them in the order in which they were added"
    )]
    Misplaced {
        /// What the list says.
        listed: u32,
        /// What it is.
        found: u32,
    },
    /// A server without a record, which may have been emptied.
    #[error(
        "the server that CLICKHOUSE_URL lists as shard {number} has no record of its shard; `tallyhouse migrate up` with the same CLICKHOUSE_URL makes one"
    )]
    Unrecorded {
        /// From 1.
        number: u32,
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
            let known = recorded(&self.home).await?.known;
            return if known > 1 { Err(ShardsError::Unlisted { known, listed }) } else { Ok(()) };
        }
        for (number, client) in self.numbered() {
            let record = recorded(client).await.map_err(|source| ShardsError::Away { number, source })?;
            match record.number() {
                Some(found) if found != number => return Err(ShardsError::Misplaced { listed: number, found }),
                Some(_) if record.known > listed => {
                    return Err(ShardsError::Unlisted { known: record.known, listed });
                }
                Some(_) => {}
                None => return Err(ShardsError::Unrecorded { number }),
            }
        }
        Ok(())
    }

    /// Whether the tables of any are replicated: each shard has macros of its own, or none. An error only where no other one says so.
    pub async fn is_replicated(&self) -> Result<bool, ShardsError> {
        let mut away = None;
        for (number, client) in self.numbered() {
            let answer = tokio::time::timeout(ANSWER_WITHIN, is_replicated(client)).await;
            match answer.unwrap_or(Err(StoreError::TimedOut)) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(source) => away = away.or(Some(ShardsError::Away { number, source })),
            }
        }
        away.map_or(Ok(false), Err)
    }
}

impl From<Client> for AllShards {
    /// A single server.
    fn from(home: Client) -> Self {
        Self { home, others: Vec::new() }
    }
}
