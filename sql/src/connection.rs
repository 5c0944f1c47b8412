//! The connection to ClickHouse.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clickhouse::{Client, Compression};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;

use crate::failover::Failover;

/// The database that everything lives in.
pub const DATABASE: &str = "tallyhouse";

/// Between two servers of one [`Connection::url`].
pub(crate) const BETWEEN_SERVERS: char = '|';

/// The database whose tables ask all shards of a cluster.
pub const EVERYTHING: &str = "tallyhouse_all";

/// Where ClickHouse is and who we are there.
#[derive(Clone)]
pub struct Connection {
    /// `http://host:port`, or `https://host:port`; several with `|` between are servers that hold the same: one that answers is asked.
    pub url: String,
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Whom `https://` believes; without it only `http://` is of use.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A dead peer is noticed after about so long.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// ClickHouse closes connections that are idle for 3 s.
const IDLE_AT_MOST: Duration = Duration::from_secs(2);

impl Connection {
    /// `host:port`, to tell servers apart.
    pub fn server_name(&self) -> &str {
        let rest = self.url.split_once("://").map_or(&*self.url, |(_, rest)| rest);
        rest.split(['/', '?']).next().unwrap_or(rest)
    }

    /// A client for [`DATABASE`]. Clones of it share its pool of connections.
    ///
    /// Without compression: on one host or in one rack LZ4 costs more processor time than it saves, and the engine needs
    /// that time for its views.
    pub fn client(&self) -> Client {
        self.server().with_database(DATABASE)
    }

    /// A client bound to no database, for the statement that creates it.
    pub fn server(&self) -> Client {
        self.transport()
            .with_url(self.urls().next().unwrap_or_default())
            .with_user(&self.user)
            .with_password(&self.password)
            .with_compression(Compression::None)
    }

    /// The crate's own would read the system's authorities for each client, also for `http://`, and end the process where there are none, as in a
    /// slim container.
    fn transport(&self) -> Client {
        let mut http = HttpConnector::new();
        http.set_keepalive(Some(KEEP_ALIVE));
        http.enforce_http(self.tls.is_none());
        let is_alone = self.urls().nth(1).is_none();
        let mut client = HttpClient::builder(TokioExecutor::new());
        client.pool_idle_timeout(IDLE_AT_MOST);
        match (&self.tls, is_alone) {
            (Some(tls), true) => Client::with_http_client(client.build(HttpsConnector::from((http, Arc::clone(tls))))),
            (Some(tls), false) => {
                let https = HttpsConnector::from((http, Arc::clone(tls)));
                Client::with_http_client(client.build(Failover::new(https, self.urls())))
            }
            (None, true) => Client::with_http_client(client.build(http)),
            (None, false) => Client::with_http_client(client.build(Failover::new(http, self.urls()))),
        }
    }

    fn urls(&self) -> impl Iterator<Item = &str> {
        self.url.split(BETWEEN_SERVERS)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}
