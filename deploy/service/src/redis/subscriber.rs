//! Connections for messages (`SUBSCRIBE`).
//!
//! In a cluster a message reaches every node, but over links that may break unseen. So a subscription is to the node that has the slot of the
//! keys that messages are about: what is published together with a change of these keys is published there.

use std::time::Duration;

use redis::aio::PubSub;
use redis::sentinel::SentinelClient;
use redis::{Client, ConnectionAddr, ConnectionInfo, RedisError, Value};
use tokio::sync::Mutex;

use super::pool::{OpenError, Pool, Unavailable, sentinel_client};
use super::url::{RedisUrl, Topology};

/// A connection may take so long to open. A Sentinel that is silent has its second before another is believed, then the master is asked
/// whether it is one.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Opens subscriptions.
pub struct Subscriber(Kind);

enum Kind {
    Server(Client),
    Sentinel(Mutex<SentinelClient>),
    Cluster(Box<OfCluster>),
}

struct OfCluster {
    pool: Pool,
    /// How any node is spoken to.
    node: ConnectionInfo,
    url: RedisUrl,
    /// A key of the slot.
    key: &'static str,
}

/// Why there is no subscription.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("no connection in time")]
    TimedOut,
    /// No node has the slot: the cluster is being set up, or lost it.
    #[error("no node of the cluster has slot {slot}")]
    NoNode { slot: u16 },
}

impl Subscriber {
    /// To the Redis of this URL, for messages about changes of `key` and of others in its slot.
    pub fn new(url: &RedisUrl, key: &'static str) -> Result<Self, OpenError> {
        let kind = match &url.topology {
            Topology::Single(info) => Kind::Server(client(url, info.clone())?),
            Topology::Sentinel(sentinels) => {
                Kind::Sentinel(Mutex::new(sentinel_client(url, sentinels).map_err(OpenError)?))
            }
            Topology::Cluster(nodes) => {
                let none = || OpenError(RedisError::from(std::io::Error::other("no node")));
                let node = nodes.first().cloned().ok_or_else(none)?;
                Kind::Cluster(Box::new(OfCluster { pool: Pool::new(url, 1)?, node, url: url.clone(), key }))
            }
        };
        Ok(Self(kind))
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Result<PubSub, SubscribeError> {
        let connected = tokio::time::timeout(CONNECT_WITHIN, self.open()).await;
        connected.map_err(|_| SubscribeError::TimedOut)?
    }

    async fn open(&self) -> Result<PubSub, SubscribeError> {
        let client = match &self.0 {
            Kind::Server(client) => client.clone(),
            Kind::Sentinel(sentinels) => sentinels.lock().await.async_get_client().await?,
            Kind::Cluster(cluster) => cluster.node_of_slot().await?,
        };
        Ok(client.get_async_pubsub().await?)
    }
}

impl OfCluster {
    async fn node_of_slot(&self) -> Result<Client, SubscribeError> {
        let mut connection = self.pool.get().await?;
        let slots: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        let slot = slot_of(self.key);
        let (host, port) = master(&slots, slot).ok_or(SubscribeError::NoNode { slot })?;
        // A node that does not know its own name leaves it out.
        let known = |host: String, of: &str| if host.is_empty() { of.to_owned() } else { host };
        let address = match self.node.addr() {
            ConnectionAddr::TcpTls { host: of, insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: known(host, of),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            ConnectionAddr::Tcp(of, _) => ConnectionAddr::Tcp(known(host, of), port),
            _ => ConnectionAddr::Tcp(host, port),
        };
        client(&self.url, self.node.clone().set_addr(address)).map_err(|OpenError(error)| error.into())
    }
}

fn client(url: &RedisUrl, info: ConnectionInfo) -> Result<Client, OpenError> {
    let client = match &url.certificates {
        Some(certificates) if url.is_tls() => Client::build_with_tls(info, certificates.clone()),
        _ => Client::open(info),
    };
    client.map_err(OpenError)
}

/// Whose master a slot has, from the answer to `CLUSTER SLOTS`: ranges of slots, each with its master and then its replicas.
fn master(slots: &Value, slot: u16) -> Option<(String, u16)> {
    let range = sequence(slots)?.iter().find_map(|range| {
        let range = sequence(range)?;
        let bounds = number(range.first()?)?..=number(range.get(1)?)?;
        bounds.contains(&i64::from(slot)).then_some(range)
    })?;
    let node = sequence(range.get(2)?)?;
    let host = match node.first()? {
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        _ => String::new(),
    };
    Some((host, u16::try_from(number(node.get(1)?)?).ok()?))
}

fn sequence(value: &Value) -> Option<&[Value]> {
    if let Value::Array(values) = value { Some(values) } else { None }
}

fn number(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(*number) } else { None }
}

/// CRC16 (XMODEM) of what is in the first braces of a key, or of all of it, modulo the number of slots: as Redis Cluster defines it.
fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // `CLUSTER KEYSLOT`.
        assert_eq!(
            [slot_of("123456789"), slot_of("foo"), slot_of("a{foo}b"), slot_of("a{}b")],
            [12_739, 12_182, 12_182, 13_694]
        );
    }

    #[test]
    fn the_master_of_a_slot_is_the_first_node_of_its_range() {
        let node = |host: &str, port| Value::Array(vec![Value::BulkString(host.into()), Value::Int(port)]);
        let range =
            |from, to, nodes: Vec<Value>| Value::Array([vec![Value::Int(from), Value::Int(to)], nodes].concat());
        let slots =
            Value::Array(vec![range(0, 99, vec![node("a", 1)]), range(100, 16_383, vec![node("", 2), node("c", 3)])]);
        assert_eq!(master(&slots, 99), Some(("a".to_owned(), 1)));
        assert_eq!(master(&slots, 100), Some((String::new(), 2)));
        assert_eq!(master(&Value::Array(vec![]), 1), None);
    }
}
