//! Periodic work on the log: measures its backlog, retires segments, saves their ids, and makes checkpoints.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tallyhouse_service::clock::steady_ms;
use tallyhouse_service::health::Status;

use super::ids::{self, Id, Source};
use super::{Direct, known_id, restored};

/// Between two syncs of ClickHouse's files. What is stored meanwhile is kept in the log.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

impl Direct {
    /// Measures what waits, and lets go of segments that are read. Blocking.
    pub(super) fn look(&self) {
        let (committed, mut oldest) = (self.partition.committed_next(), None);
        let looked = self.log.read(committed, |record| {
            oldest = Some(record.at);
            false
        });
        let waiting = self.log.measure(committed, oldest);
        self.store.metrics.log.waiting(waiting.bytes, waiting.oldest);
        let (status, detail) = match (self.log.is_full(), waiting.has_room) {
            _ if self.log.has_failed() => (Status::Down, "its writer ended by a fault: start the process again"),
            (_, false) => (Status::Down, "the disk is nearly full: events are refused"),
            (true, true) => (Status::Down, "full: events are refused until ClickHouse is back"),
            (false, true) => (Status::Up, ""),
        };
        self.store.health.set("log", status, detail);
        let window = self.appender.window();
        self.store.metrics.window(window.ids(), window.reach(steady_ms()));
        drop(window);
        if let Err(error) =
            looked.map(drop).and_then(|()| self.retire(committed, waiting.has_room)).and_then(|()| self.log.prepare())
        {
            self.store.metrics.log.errors.inc();
            tracing::error!(%error, "segments could not be let go of, or made; trying again");
        }
    }

    /// Without room, nothing is kept for a backup: room for what comes matters more.
    fn retire(&self, committed: i64, has_room: bool) -> io::Result<()> {
        let (ended, kept) = (self.log.ended_before(committed), self.checkpointer.may_go_before());
        // Asked only when something may go.
        let backed_up = if ended.is_empty() || !has_room { None } else { restored::kept_from(&self.disk)? };
        let mut gone = None;
        for (base, end) in ended {
            // An empty one is followed by one of the same base.
            if end > base && base > self.saved.load(Ordering::Relaxed) {
                ids::save(&self.disk, Source::Segment(base), &self.ids_of(base, end))?;
                self.saved.store(base, Ordering::Relaxed);
            }
            let is_kept = backed_up.is_some_and(|next| end > next) && self.log.bytes_from(end) < self.log.spool_bytes();
            gone = gone.max((end <= kept && !is_kept).then_some(end));
        }
        let Some(gone) = gone else { return Ok(()) };
        self.log.retire(gone);
        ids::forget_old(&self.disk, self.common.windows.limits(), self.log.range().start)
    }

    pub(super) async fn checkpoint_regularly(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECKPOINT_EVERY).await;
            let this = Arc::clone(&self);
            drop(tokio::task::spawn_blocking(move || this.checkpoint()).await);
        }
    }

    /// Makes what is stored outlive the power. Blocking.
    pub(super) fn checkpoint(&self) {
        if let Err(error) = self.checkpointer.checkpoint(self.partition.committed_next()) {
            self.store.metrics.log.errors.inc();
            tracing::error!(%error, "ClickHouse's files could not be synced; the log keeps what is in them, and it is tried again");
        }
    }

    /// Ids of records between two offsets, as far as the window has them.
    fn ids_of(&self, base: i64, end: i64) -> Vec<Id> {
        let mut found = self.appender.window().within(&(base..end));
        found.sort_unstable_by_key(|(_, offset, _)| *offset);
        found.into_iter().map(known_id()).collect()
    }
}
