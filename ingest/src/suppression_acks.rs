//! Tells which suppressions apply to everything that this process stores from now on, so that an erasure can wait for it.
//!
//! A process that is killed, or that ClickHouse does not hear, is waited for until its row is old. What it stores later by a batch that
//! it began before counts as a leftover, which has the erasure look again.

use std::time::Duration;

use tallyhouse_control::privacy::suppressions::Suppressions;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::suppression_acks::{Ack, WRITE_EVERY, write};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

const LOOK_EVERY: Duration = Duration::from_millis(250);

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Writes this process's row until `ended`, and once more then.
pub(crate) async fn tell(client: Client, suppressions: Suppressions, ended: CancellationToken) {
    let process = Ulid::generate().to_string();
    let mut told: Option<(Ack, Instant)> = None;
    // Whoever was not heard for so long was not waited for.
    let mut cut_off = 0;
    loop {
        let is_ended = ended.is_cancelled();
        let leftovers = suppressions.leftovers() + cut_off;
        let known = suppressions.applied();
        let ack = Ack { process: process.clone(), known, leftovers, is_running: u8::from(!is_ended) };
        let is_due = told.as_ref().is_none_or(|(before, at)| *before != ack || at.elapsed() >= WRITE_EVERY);
        if is_due {
            match timeout(ANSWER_WITHIN, write(&client, &ack)).await {
                Ok(Ok(())) => {
                    if told.is_some_and(|(_, at)| at.elapsed() >= WRITE_EVERY * 2) {
                        cut_off += 1;
                    }
                    told = Some((ack, Instant::now()));
                }
                Ok(Err(error)) => tracing::debug!(%error, "what is known of suppressions could not be told"),
                Err(_) => tracing::debug!("what is known of suppressions was not told in time"),
            }
        }
        if is_ended {
            return;
        }
        drop(timeout(LOOK_EVERY, ended.cancelled()).await);
    }
}
