//! A bounded number of connections, opened when they are needed.

use std::fmt;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, PoolConfig, RecycleResult, Timeouts};
use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{Client, RedisError, TlsMode};
use tokio::sync::Mutex;

use super::connection::Connection;
use super::url::{RedisUrl, Sentinels, Topology};
use crate::metrics::pools::PoolStatus;

/// A connection may take so long to open; who waits for it has a deadline of its own.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// A connection that does not answer to `PING` in this time is replaced.
const ALIVE_WITHIN: Duration = Duration::from_millis(100);

/// A request waits so long for one of another's connections.
const FREE_WITHIN: Duration = Duration::from_millis(100);

/// Connections to a Redis. Clones share them.
#[derive(Clone)]
pub struct Pool {
    inner: managed::Pool<Opener>,
}

/// A URL that is well formed and still cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot be used: {0}")]
pub struct OpenError(pub(super) RedisError);

/// There is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("no connection: {0}")]
    NotOpened(#[from] RedisError),
    #[error("no connection in time")]
    TimedOut,
    #[error("the pool is closed")]
    Closed,
}

impl Pool {
    /// At most so many connections; the first is opened when it is needed.
    pub fn new(url: &RedisUrl, connections: usize) -> Result<Self, OpenError> {
        let opener = Opener::new(url).map_err(OpenError)?;
        let timeouts = Timeouts { wait: Some(FREE_WITHIN), create: Some(OPEN_WITHIN), recycle: Some(ALIVE_WITHIN) };
        let config = PoolConfig { max_size: connections.max(1), timeouts, ..PoolConfig::default() };
        let inner = managed::Pool::builder(opener).config(config).runtime(Runtime::Tokio1).build();
        Ok(Self { inner: inner.map_err(|_| OpenError(RedisError::from(std::io::Error::other("no runtime"))))? })
    }

    /// A connection, within the deadline of the caller.
    pub async fn get(&self) -> Result<Connection, Unavailable> {
        if self.inner.status().available > 0 {
            return Ok(Connection::new(self.inner.get().await?));
        }
        let pool = self.inner.clone();
        // A caller that stops waiting does not stop the opening: the next one has the connection.
        let opened = tokio::spawn(async move { pool.get().await });
        Ok(Connection::new(opened.await.map_err(|_| Unavailable::Closed)??))
    }
}

impl Pool {
    /// For metrics.
    pub fn status(&self) -> PoolStatus {
        let status = self.inner.status();
        PoolStatus {
            size: status.max_size,
            in_use: status.size.saturating_sub(status.available),
            idle: Some(status.available),
            waiting: status.waiting,
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("status", &self.inner.status()).finish()
    }
}

impl From<managed::PoolError<RedisError>> for Unavailable {
    fn from(error: managed::PoolError<RedisError>) -> Self {
        match error {
            managed::PoolError::Backend(error) => Self::NotOpened(error),
            managed::PoolError::Timeout(_) => Self::TimedOut,
            managed::PoolError::Closed
            | managed::PoolError::NoRuntimeSpecified
            | managed::PoolError::PostCreateHook(_) => Self::Closed,
        }
    }
}

/// Opens connections, and tries them before they are used again.
pub(super) enum Opener {
    Single(Client),
    Sentinel(Mutex<SentinelClient>),
    Cluster(ClusterClient),
}

/// An open connection. One of a cluster keeps those to its nodes itself.
pub(super) enum Opened {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Opener {
    fn new(url: &RedisUrl) -> Result<Self, RedisError> {
        Ok(match &url.topology {
            Topology::Single(info) => Self::Single(match &url.certificates {
                Some(certificates) if url.is_tls() => Client::build_with_tls(info.clone(), certificates.clone())?,
                _ => Client::open(info.clone())?,
            }),
            Topology::Sentinel(sentinels) => Self::Sentinel(Mutex::new(sentinel_client(url, sentinels)?)),
            Topology::Cluster(nodes) => {
                let builder = ClusterClientBuilder::new(nodes.clone())
                    // Retried by whoever asks: beyond a redirection, an answer that comes late is of no use.
                    .retries(2)
                    .connection_timeout(OPEN_WITHIN)
                    .response_timeout(OPEN_WITHIN);
                let builder = match &url.certificates {
                    Some(certificates) if url.is_tls() => builder.certs(certificates.clone()),
                    _ => builder,
                };
                Self::Cluster(builder.build()?)
            }
        })
    }
}

pub(super) fn sentinel_client(url: &RedisUrl, sentinels: &Sentinels) -> Result<SentinelClient, RedisError> {
    let addresses = sentinels.sentinels.iter().map(|info| info.addr().clone());
    let mut builder = SentinelClientBuilder::new(addresses, &sentinels.master, SentinelServerType::Master)?;
    let server = sentinels.server.redis_settings();
    builder = builder.set_client_to_redis_db(server.db());
    if let Some(user) = server.username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = server.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(own) = sentinels.sentinels.first().map(redis::ConnectionInfo::redis_settings) {
        if let Some(user) = own.username() {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = own.password() {
            builder = builder.set_client_to_sentinel_password(password);
        }
    }
    if url.is_tls() {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        if let Some(certificates) = &url.certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
    }
    builder.build()
}

impl managed::Manager for Opener {
    type Type = Opened;
    type Error = RedisError;

    async fn create(&self) -> Result<Opened, RedisError> {
        Ok(match self {
            Self::Single(client) => Opened::Server(client.get_multiplexed_async_connection().await?),
            Self::Sentinel(client) => Opened::Server(client.lock().await.get_async_connection().await?),
            Self::Cluster(client) => Opened::Cluster(client.get_async_connection().await?),
        })
    }

    async fn recycle(&self, opened: &mut Opened, _: &Metrics) -> RecycleResult<RedisError> {
        match opened {
            Opened::Server(connection) => redis::cmd("PING").query_async::<()>(connection).await?,
            // It opens connections to its nodes again by itself; `PING` would ask all of them.
            Opened::Cluster(_) => {}
        }
        Ok(())
    }
}
