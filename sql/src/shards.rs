//! The servers of a cluster: shards in their order, each of one server or of several that hold the same.
//!
//! ```text
//! CLICKHOUSE_URL   a|b,c|d     shard 1 is a and b, shard 2 is c and d: as `remote()` has it
//! written          to the shard that a batch belongs to, always the same one, whichever of its servers answers
//! read             from `tallyhouse_all` on any server, which asks a server of each shard
//! the rest         (the control plane, what is noted about erasures) is on shard 1, *home*
//! ```
//!
//! Each server has all tables of a single one in `tallyhouse`, so whatever works on one server works on each shard by itself: inserting,
//! verifying, rebuilding, erasing, dead letters.
//!
//! **The order is the assignment.** A token is known to one shard only, so nothing may reach another one under it. `migrate up` records in
//! `tallyhouse.shards`, on every server, which number it has ([`record`]); whoever inserts compares that with its list first
//! ([`number_of`]). New shards are added at the end.
//!
//! Failure cases: a list in another order is refused, by `migrate up` and by who inserts; a server that is away is migrated when it is back
//! and `migrate up` is run again, until then nothing is stored there; a server that was emptied has no number, and nothing is stored there
//! before `migrate up` gives it one.

use std::sync::Arc;
use std::time::Duration;

use clickhouse::{Client, Row};
use rustls::ClientConfig;
use serde::Deserialize;

use crate::connection::{BETWEEN_SERVERS, Connection, EVERYTHING};
use crate::deadline::within;
use crate::error::StoreError;
use crate::rollups::STATEMENT_DEADLINE;

/// A server that takes longer to say which shard it is counts as away.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Between two shards of a list.
const BETWEEN_SHARDS: char = ',';

/// Shards in order; a single server is one.
#[derive(Debug, Clone)]
pub struct Shards {
    home: Connection,
    others: Vec<Connection>,
}

/// Who is somebody on all of them.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Whom `https://` believes.
    pub tls: Option<Arc<ClientConfig>>,
}

/// The addresses in a list, by shard: `a|b,c|d`.
pub fn addresses(list: &str) -> impl Iterator<Item = &str> {
    list.split(BETWEEN_SHARDS).flat_map(|shard| shard.split(BETWEEN_SERVERS)).map(str::trim)
}

impl Shards {
    /// Those of a list such as `http://a:8123|http://b:8123,http://c:8123`.
    pub fn of(list: &str, login: &Login) -> Self {
        let Login { user, password, tls } = login;
        let shard = |urls: &str| Connection {
            url: urls.split(BETWEEN_SERVERS).map(str::trim).collect::<Vec<_>>().join("|"),
            user: user.clone(),
            password: password.clone(),
            tls: tls.clone(),
        };
        let mut shards = list.split(BETWEEN_SHARDS).map(shard);
        Self { home: shards.next().unwrap_or_else(|| shard("")), others: shards.collect() }
    }

    /// The first: it has what is not about events.
    pub fn home(&self) -> &Connection {
        &self.home
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        std::iter::once(&self.home).chain(&self.others)
    }

    /// How many.
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// Whether there are several.
    pub fn is_cluster(&self) -> bool {
        !self.others.is_empty()
    }

    /// Every server with the number of its shard.
    pub fn servers(&self) -> Vec<(u32, Connection)> {
        let servers = |(number, shard): (u32, &Connection)| {
            let of = |url: &str| (number, Connection { url: url.to_owned(), ..shard.clone() });
            shard.url.split(BETWEEN_SERVERS).map(of).collect::<Vec<_>>()
        };
        (1..).zip(self.iter()).flat_map(servers).collect()
    }

    /// The same servers, as another user.
    #[must_use]
    pub fn as_user(&self, login: &Connection) -> Self {
        let of = |shard: &Connection| Connection { url: shard.url.clone(), ..login.clone() };
        Self { home: of(&self.home), others: self.others.iter().map(of).collect() }
    }

    /// A client that reads what all shards hold: through whichever server answers, as the tables of one server are named.
    pub fn reader(&self) -> Client {
        if self.is_cluster() { self.anywhere().server().with_database(EVERYTHING) } else { self.home.client() }
    }

    /// Whichever server answers.
    pub fn anywhere(&self) -> Connection {
        let urls: Vec<_> = self.iter().map(|shard| shard.url.as_str()).collect();
        Connection { url: urls.join("|"), ..self.home.clone() }
    }
}

impl From<Connection> for Shards {
    /// One server, or one shard.
    fn from(home: Connection) -> Self {
        Self { home, others: Vec::new() }
    }
}

/// A server is not where the list has it.
#[derive(Debug, thiserror::Error)]
pub enum MisplacedError {
    /// Its own record says otherwise.
    #[error(
        "{url} is shard {found}, and CLICKHOUSE_URL lists it as shard {listed}; keep the order in which shards were added, new ones at the end"
    )]
    OtherShard {
        /// The server.
        url: String,
        /// What it is.
        found: u32,
        /// What the list says.
        listed: u32,
    },
    /// It has no number.
    #[error("{url} has no record of its shard; `tallyhouse migrate up` with the same CLICKHOUSE_URL makes one")]
    Unrecorded {
        /// The server.
        url: String,
    },
    /// `remote_servers` says otherwise.
    #[error(
        "{url}: the cluster `{cluster}` has {found} shards in remote_servers, and CLICKHOUSE_URL lists {listed}; make them the same, in one order"
    )]
    OtherCluster {
        /// The server.
        url: String,
        /// Its name.
        cluster: String,
        /// Shards that the server knows; 0: there is no such cluster.
        found: u64,
        /// Shards of the list.
        listed: u64,
    },
    /// `remote_servers` has another order.
    #[error(
        "{url} is shard {found} of `{cluster}` in remote_servers, and CLICKHOUSE_URL lists it as shard {listed}; make the orders the same"
    )]
    OtherOrder {
        /// The server.
        url: String,
        /// Its name.
        cluster: String,
        /// What it is there.
        found: u32,
        /// What the list says.
        listed: u32,
    },
    /// ClickHouse.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Row, Deserialize)]
struct InCluster {
    shards: u64,
    /// 0 where the server does not find itself.
    here: u32,
}

/// What a server says of the cluster that it is to be part of.
pub async fn examine(server: &Connection, cluster: &str, listed: (u32, usize)) -> Result<(), MisplacedError> {
    let sql = "SELECT uniqExact(shard_num) AS shards, toUInt32(maxIf(shard_num, is_local)) AS here \
               FROM system.clusters WHERE cluster = {cluster:String}";
    let found =
        within(STATEMENT_DEADLINE, server.server().query(sql).param("cluster", cluster).fetch_one::<InCluster>())
            .await?;
    let (url, cluster, (number, count)) = (server.url.clone(), cluster.to_owned(), listed);
    if found.shards != count as u64 {
        return Err(MisplacedError::OtherCluster { url, cluster, found: found.shards, listed: count as u64 });
    }
    if found.here != 0 && found.here != number {
        return Err(MisplacedError::OtherOrder { url, cluster, found: found.here, listed: number });
    }
    Ok(())
}

/// Whether a server has what replicated tables need: the macros `shard` and `replica`.
pub async fn has_macros(server: &Connection) -> Result<bool, StoreError> {
    let sql = "SELECT count() FROM system.macros WHERE macro IN ('shard', 'replica')";
    Ok(within(STATEMENT_DEADLINE, server.server().query(sql).fetch_one::<u64>()).await? == 2)
}

/// What a server has recorded of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Row, Deserialize)]
pub(crate) struct ShardRecord {
    /// 0 where there is none.
    here: u32,
    /// How many shards it knows.
    pub(crate) known: u64,
}

impl ShardRecord {
    /// The server's own number.
    pub(crate) fn number(self) -> Option<u32> {
        (self.here != 0).then_some(self.here)
    }
}

/// Asks a server for its record, which is empty on a single server.
pub(crate) async fn recorded(server: &Client) -> Result<ShardRecord, StoreError> {
    let sql =
        "SELECT toUInt32(maxIf(number, is_here = 1)) AS here, uniqExact(number) AS known FROM tallyhouse.shards FINAL";
    match within(ANSWER_WITHIN, server.query(sql).fetch_one::<ShardRecord>()).await {
        // No such table or database.
        Err(StoreError::Refused { code: 60 | 81, .. }) => Ok(ShardRecord::default()),
        answer => answer,
    }
}

/// How many shards the cluster of a server has by its own record; 0 where it is a single one. An address may lead to any server of a shard.
pub async fn known(server: &Client) -> Result<u64, StoreError> {
    Ok(recorded(server).await?.known)
}

/// The number that a server has by its own record; `None`: it has none.
pub async fn number_of(server: &Client) -> Result<Option<u32>, StoreError> {
    Ok(recorded(server).await?.number())
}

/// When the last shard was added, in milliseconds since 1970.
pub async fn last_added(server: &Client) -> Result<i64, StoreError> {
    let sql = "SELECT toUnixTimestamp64Milli(max(added_at)) FROM tallyhouse.shards FINAL";
    within(STATEMENT_DEADLINE, server.query(sql).fetch_one::<i64>()).await
}

/// Compares a server's number, and how many shards it knows, with the list's. One that does not know of a shard that was added does not know either
/// since when ids may be on another one.
pub async fn require(server: &Connection, (listed, count): (u32, usize)) -> Result<(), MisplacedError> {
    let record = recorded(&server.client()).await?;
    match record.number() {
        Some(found) if found == listed && record.known >= count as u64 => Ok(()),
        Some(found) if found == listed => Err(MisplacedError::Unrecorded { url: server.url.clone() }),
        Some(found) => Err(MisplacedError::OtherShard { url: server.url.clone(), found, listed }),
        None => Err(MisplacedError::Unrecorded { url: server.url.clone() }),
    }
}

/// Writes down, on a server that has all tables, which shard it is of, and which others there are. What is recorded stays.
pub async fn record(server: &Connection, (number, count): (u32, usize)) -> Result<(), MisplacedError> {
    let client = server.client();
    if let Some(found) = number_of(&client).await?.filter(|found| *found != number) {
        return Err(MisplacedError::OtherShard { url: server.url.clone(), found, listed: number });
    }
    let sql = "INSERT INTO tallyhouse.shards (number, is_here, added_at) \
               SELECT toUInt32(number + 1), number + 1 = {here:UInt32}, now64(3) FROM numbers({count:UInt64}) \
               WHERE number + 1 NOT IN (SELECT number FROM tallyhouse.shards)";
    let insert = client.query(sql).param("here", number).param("count", count as u64);
    Ok(within(STATEMENT_DEADLINE, insert.with_setting("async_insert", "0").execute()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(list: &str) -> Shards {
        let login = Login { user: "u".into(), password: "p".into(), tls: None };
        Shards::of(list, &login)
    }

    #[test]
    fn a_list_is_shards_of_servers() {
        let cluster = shards("http://a|http://b, http://c");
        assert_eq!(
            (cluster.count(), cluster.is_cluster(), cluster.home().url.as_str()),
            (2, true, "http://a|http://b")
        );
        let servers: Vec<_> = cluster.servers().into_iter().map(|(number, server)| (number, server.url)).collect();
        assert_eq!(servers, [(1, "http://a".into()), (1, "http://b".into()), (2, "http://c".into())]);
        assert_eq!(cluster.anywhere().url, "http://a|http://b|http://c");
        assert!(!shards("http://a|http://b").is_cluster());
        assert_eq!(addresses("a|b, c").collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
