//! `tallyhouse dlq`: lists, shows, replays or discards dead letters.
//!
//! ```text
//! filters -> find (newest row of each dead letter) -> list | show | replay (prepare -> send -> mark) | discard (mark)
//! ```
//!
//! A dead letter is marked by inserting it once more, newer. Replay marks after the event was accepted: when that fails, the dead letter
//! stays open, and replaying it again is a duplicate, because a replayed event always has an id.

mod find;
mod print;
mod replay;
mod send;

use std::time::Duration;

use tallyhouse_ingest::dead_letters::{DeadLetter, DeadLetterState, block};
use tallyhouse_service::clock::now_ms;
use tallyhouse_sql::insert::insert_block;
use tallyhouse_sql::{Connection, StoreError};
use ulid::Ulid;

pub use find::{BadFilter, Filters, find};
pub use print::{details, json_line, printable, table};
pub use replay::{NotSendable, ReplayError, Sent, prepare, replay};
pub use send::{Answer, SendError, Sender};

/// Dead letters of one insert.
const MARKED_AT_ONCE: usize = 500;

/// Inserting marks may take this long.
const MARK_WITHIN: Duration = Duration::from_secs(30);

/// Says what became of dead letters.
pub async fn mark(writer: &Connection, dead_letters: &[DeadLetter], state: DeadLetterState) -> Result<(), StoreError> {
    let client = writer.client();
    for dead_letters in dead_letters.chunks(MARKED_AT_ONCE) {
        // Newer than the row before, whatever the clock says.
        let newer = |dead_letter: &DeadLetter| DeadLetter {
            state,
            updated_at: now_ms().max(dead_letter.updated_at.saturating_add(1)),
            ..dead_letter.clone()
        };
        let rows: Vec<_> = dead_letters.iter().map(newer).collect();
        insert_block(&client, "dead_letters", &format!("mark-{}", Ulid::generate()), &block(&rows), MARK_WITHIN)
            .await?;
    }
    Ok(())
}
