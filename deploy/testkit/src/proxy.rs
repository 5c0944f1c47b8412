//! A proxy to ClickHouse that can keep answers back: an insert is carried out, and who sent it does not learn of it.

use tallyhouse_loadtest::relay::Relay;
use tallyhouse_sql::Connection;

pub use tallyhouse_loadtest::relay::Mode;

/// The proxy; it goes with the value.
pub struct Proxy {
    pub connection: Connection,
    relay: Relay,
}

impl Proxy {
    /// In front of a ClickHouse.
    pub async fn start(connection: Connection) -> Self {
        let relay = Relay::start(&connection.url).await.unwrap();
        Self { connection: Connection { url: relay.url.clone(), ..connection }, relay }
    }

    pub fn set(&self, mode: Mode) {
        self.relay.set(mode);
    }
}
