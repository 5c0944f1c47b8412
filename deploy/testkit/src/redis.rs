//! A Redis of a test's own.

use std::path::Path;

use tallyhouse_loadtest::redis::Redis as Server;

use crate::folder::Folder;
use crate::ports::free_ports;

/// A Redis of one's own, to be killed.
pub struct Redis {
    pub url: String,
    server: Server,
    folder: Folder,
}

impl Redis {
    pub async fn start() -> Self {
        let [port] = free_ports();
        Self::start_on(port).await
    }

    /// Where somebody already looks for one.
    pub async fn start_on(port: u16) -> Self {
        let folder = Folder::create();
        let server = Server::start_on(port, folder.path()).await.unwrap_or_else(|error| panic!("{error}"));
        let redis = Self { url: server.url(), server, folder };
        redis.nobody_writes().await;
        redis
    }

    /// As after ingesters that were all stopped in order: a test raises versions itself.
    pub async fn nobody_writes(&self) {
        self.command("HSETNX tallyhouse:{versions}:writers since 1").await.unwrap();
    }

    /// Kills it and starts it again, with what it held at its last `SAVE`.
    pub async fn restart(&mut self) {
        self.server.start_again().await.unwrap();
    }

    pub async fn kill(&mut self) {
        self.server.kill();
    }

    /// Makes it hang: connections stay, nothing is answered.
    pub async fn hang(&self) {
        self.server.freeze().unwrap();
    }

    /// The folder of its snapshots.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets go on what was hung.
    pub async fn thaw(&self) {
        self.server.thaw().unwrap();
    }

    /// How many keys there are that begin so.
    pub async fn keys(&self, beginning: &str) -> u64 {
        let count = format!("EVAL \"return #redis.call('KEYS', '{beginning}*')\" 0");
        self.command(&count).await.and_then(|answer| answer.strip_prefix(':')?.parse().ok()).unwrap_or(0)
    }

    /// A number in a hash, 0 when it is not there.
    pub async fn number(&self, key: &str, field: &str) -> u64 {
        let read = format!("EVAL \"return tonumber(redis.call('HGET', '{key}', '{field}') or '0')\" 0");
        self.command(&read).await.and_then(|answer| answer.strip_prefix(':')?.parse().ok()).expect("Redis answers")
    }

    /// One inline command; the first line of the answer.
    pub async fn command(&self, command: &str) -> Option<String> {
        self.server.ask(command).await.ok()
    }
}
