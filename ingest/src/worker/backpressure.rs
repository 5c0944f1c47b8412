//! Bytes queued for a worker; its feeder pauses above a limit.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc::UnboundedReceiver;

use super::filling::{Chunk, Filling};

/// Shared by a worker and its sender.
#[derive(Debug, Default)]
pub struct Backpressure {
    queued: AtomicUsize,
    is_open: AtomicBool,
}

impl Backpressure {
    /// Bytes that wait.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// So many bytes are sent.
    pub fn sent(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes wait no more.
    pub fn taken(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether the worker takes records: not before it has begun, and not when it is blocked. No more should be read for it then.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    pub(super) fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Takes nothing any more, and lets go of records that only the next owner will store: they would take room from other partitions.
    pub(super) fn give_back(&self, chunks: &mut UnboundedReceiver<Chunk>, filling: Filling) {
        self.is_open.store(false, Ordering::Relaxed);
        chunks.close();
        self.taken(filling.held());
        drop(filling);
        while let Ok(chunk) = chunks.try_recv() {
            self.taken(chunk.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Read;
    use super::super::position::Position;
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "three chunks")]
    fn a_worker_that_stands_still_holds_nothing() {
        let (backpressure, (sender, mut chunks)) = (Backpressure::default(), tokio::sync::mpsc::unbounded_channel());
        assert!(!backpressure.is_open(), "it has not begun");
        backpressure.open();
        for offset in 0..3 {
            let mut chunk = Chunk::default();
            chunk.push(Read { offset, at: 1, payload: b"record" });
            backpressure.sent(chunk.bytes.len());
            sender.send(chunk).unwrap();
        }
        let mut filling = Filling::new(None, None, Position::default());
        filling.begin(chunks.try_recv().unwrap());
        backpressure.give_back(&mut chunks, filling);
        assert_eq!((backpressure.is_open(), backpressure.queued()), (false, 0));
        assert!(sender.send(Chunk::default()).is_err());
    }
}
