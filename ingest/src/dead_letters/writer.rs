//! Writes dead letters to ClickHouse.

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::insert::insert_block;
use ulid::Ulid;

use super::{DeadLetter, Queue, block};
use tallyhouse_service::retry;

/// One attempt of an insert.
const DEADLINE: Duration = Duration::from_secs(10);

/// Inserts what is in the queue.
pub struct DeadLetterWriter {
    pub queue: Arc<Queue>,
    pub client: Client,
}

impl DeadLetterWriter {
    /// Works until the queue is closed and empty. While ClickHouse is away the queue fills, and then drops.
    pub async fn run(self) {
        while let Some(dead_letters) = self.queue.next().await {
            let mut on_their_way = OnTheirWay { queue: &self.queue, dead_letters: dead_letters.len() };
            self.deliver(&dead_letters).await;
            on_their_way.dead_letters = 0;
        }
    }

    async fn deliver(&self, dead_letters: &[DeadLetter]) {
        let (token, chunks) = (format!("letters-{}", Ulid::generate()), block(dead_letters));
        let mut attempt = 1;
        while let Err(error) = insert_block(&self.client, "dead_letters", &token, &chunks, DEADLINE).await {
            tracing::warn!(class = ?error.class(), attempt, dead_letters = dead_letters.len(), "dead letters could not be stored; trying again");
            tokio::time::sleep(retry::WRITE.pause(attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }
}

/// Counts dead letters as dropped when the drain's budget ends while they are on their way. They may have arrived.
struct OnTheirWay<'a> {
    queue: &'a Queue,
    dead_letters: usize,
}

impl Drop for OnTheirWay<'_> {
    fn drop(&mut self) {
        if self.dead_letters > 0 {
            self.queue.gave_up(self.dead_letters + self.queue.len());
        }
    }
}
