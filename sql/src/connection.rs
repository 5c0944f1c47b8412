//! The connection to ClickHouse.

use std::fmt;

use clickhouse::{Client, Compression};

/// The database that everything lives in.
pub const DATABASE: &str = "tallyhouse";

/// Where ClickHouse is and who we are there.
#[derive(Clone)]
pub struct Connection {
    /// `http://host:port`
    pub url: String,
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl Connection {
    /// A client for [`DATABASE`]. Clones of it share its pool of connections.
    ///
    /// Without compression: on one host or in one rack LZ4 costs more processor time than it saves, and the engine needs
    /// that time for its views.
    pub fn client(&self) -> Client {
        self.server().with_database(DATABASE)
    }

    /// A client bound to no database, for the statement that creates it.
    pub(crate) fn server(&self) -> Client {
        Client::default()
            .with_url(&self.url)
            .with_user(&self.user)
            .with_password(&self.password)
            .with_compression(Compression::None)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}
