//! Dead letters: events that could not be counted, kept for inspection and replay.
//!
//! ```text
//! rejected event -> Queue (bounded) -> writer: one batch per second -> dead_letters
//! ```
//!
//! A rejected event was refused to its sender, so no acknowledged event depends on its dead letter:
//! when the queue is full, and at the end of a drain, dead letters are dropped and counted. A payload is never logged.

mod dead_letter;
mod queue;
mod writer;

pub use dead_letter::{Broken, DeadLetter, DeadLetterState, Kind, MAX_PAYLOAD_BYTES, Origin, block, cut};
pub use queue::Queue;
pub use writer::DeadLetterWriter;

/// Where dead letters go. It never blocks: what cannot be taken is dropped and counted.
pub trait Sink: Send + Sync {
    fn offer(&self, dead_letters: Vec<DeadLetter>);
}
