//! The fallback while Kafka is away: records are appended to a local log of the gateway, and sent in order when Kafka is back.
//!
//! ```text
//! put -> local log, synced -> acknowledged … read -> produce -> acknowledged by Kafka -> commit -> segments go
//! ```
//!
//! What was sent and not committed when the process ended is sent again. That repeats records, and their consumers know them by their ids,
//! as long as they are younger than the window of ids: which is why age is bounded, too.
//!
//! Failure cases beside those of the log ([`crate::log::local`]):
//! * some records arrive and some do not: only these are sent again;
//! * Kafka takes nothing for a topic while it answers: the topic's records wait in files ([`super::held`]), and the others go on;
//! * it refuses a record for good - it has become larger than its topic takes, or it is not one for the broker: it is kept in a file of
//!   its own, counted and named in the log.

mod deliver;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tallyhouse_service::health::{Health, Status};
use tokio::time::Instant;

use super::addressed::{Addressed, address, read_all};
use super::gateway::Gateway;
use super::held::{HeldFile, HeldRecords};
use super::records::Record;
use crate::journal::JournalError;
use crate::log::local::disk::Folder as LogFolder;
use crate::log::local::{Limits, LocalLog, Options, Outcome, Sync, Writer, frame};
use crate::telemetry::Metrics;
use deliver::pieces;

/// Bytes that are sent at a time.
const AT_ONCE: usize = 1 << 20;

/// Between attempts to read, to commit or to keep a record, and between those to send what is held.
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Between syncs of the log that only the drain wants.
const SYNC_EVERY: Duration = Duration::from_millis(100);

/// Nothing of it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTaken;

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FallbackError {
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The log in it.
    #[error("the gateway's log: {0}")]
    Log(#[from] io::Error),
}

pub struct Fallback {
    log: Arc<LocalLog>,
    held: HeldRecords,
    /// What may be held.
    most_bytes: u64,
    sent: AtomicI64,
    metrics: Arc<Metrics>,
    health: Health,
}

impl Fallback {
    /// Opens what is below a folder. Blocking.
    pub fn open(
        path: &Path,
        sync: Sync,
        limits: Limits,
        metrics: Arc<Metrics>,
        health: Health,
    ) -> Result<Self, FallbackError> {
        let held = HeldRecords::open(&path.join("records"))?;
        let disk = LogFolder::open(&path.join("fallback"))?;
        // Repeats are known to who reads from Kafka.
        let metrics_of_log = Arc::clone(&metrics);
        let options = Options { sync, limits, metrics: metrics_of_log, on_lost: Box::new(|_| {}), saved: i64::MIN };
        let (log, committed) = LocalLog::on(disk, options, |_| {})?;
        let sent = committed.map_or(0, |committed| committed.next);
        Ok(Self { log: Arc::new(log), held, most_bytes: limits.bytes, sent: AtomicI64::new(sent), metrics, health })
    }

    /// Whether Kafka takes nothing for a topic, although it answers.
    pub fn is_held(&self, topic: &str) -> bool {
        self.held.has(topic)
    }

    /// Makes records durable, with others that come at the same time. Past the deadline they may become so nevertheless.
    pub async fn put<'a>(
        &self,
        topic: &str,
        records: impl Iterator<Item = Record<'a>>,
        deadline: Instant,
    ) -> Result<(), NotTaken> {
        let (mut framed, mut ends) = (Vec::new(), Vec::new());
        for record in records {
            frame::write_record(self.log.salt(), &mut framed, |out| address(topic, record, out));
            ends.push(framed.len());
        }
        if ends.is_empty() {
            return Ok(());
        }
        if self.log.is_full() || (self.is_held(topic) && self.held.bytes() >= self.most_bytes) {
            self.log.refused(ends.len());
            return Err(NotTaken);
        }
        let mut ticket = {
            let mut appending = self.log.append();
            if !appending.has_room(framed.len()) {
                return Err(NotTaken);
            }
            let starts = std::iter::once(0).chain(ends.iter().copied());
            for record in starts.zip(&ends).filter_map(|(start, end)| framed.get(start..*end)) {
                appending.push(record, None);
            }
            appending.ticket()
        };
        let written = ticket.wait_for(|outcome| *outcome != Outcome::Pending);
        match tokio::time::timeout_at(deadline, written).await {
            Ok(Ok(outcome)) if *outcome == Outcome::Durable => Ok(()),
            Ok(Ok(_) | Err(_)) | Err(_) => Err(NotTaken),
        }
    }

    /// Begins to write what is put.
    pub fn start(&self) -> io::Result<Writer> {
        self.log.start()
    }

    /// Sends what is in the log, the oldest first, as soon as Kafka takes it. Never ends.
    pub async fn drain(self: Arc<Self>, gateway: &Gateway) {
        let mut synced = self.log.synced();
        loop {
            let from = self.sent.load(Ordering::Acquire);
            if *synced.borrow_and_update() <= from {
                self.log.request_sync();
                drop(tokio::time::timeout(SYNC_EVERY, synced.changed()).await);
                continue;
            }
            let (records, next) = match self.blocking(move |this| this.read(from)).await {
                Ok(read) => read,
                Err(error) => {
                    self.failed("the gateway's log cannot be read; trying again", &error).await;
                    continue;
                }
            };
            for records in pieces(records) {
                self.deliver(gateway, records).await;
            }
            self.insist("what was sent cannot be written down; trying again", move |this| this.commit(next)).await;
        }
    }

    /// Sends what is held, as soon as Kafka takes it. Never ends.
    pub async fn drain_held(self: Arc<Self>, gateway: &Gateway) {
        loop {
            let files = self.insist("held records cannot be listed; trying again", |this| Ok(this.held.files()?)).await;
            // Where nothing waits any more, what comes goes to Kafka, too.
            let mut taken: HashMap<u32, bool> = self.held.refused().into_iter().map(|topic| (topic, true)).collect();
            for file in files {
                if taken.get(&file.topic_hash) == Some(&false) {
                    continue;
                }
                let is_sent = self.drain_file(gateway, &file).await.unwrap_or_else(|error| {
                    self.metrics.journal.journal_errors.inc();
                    tracing::error!(%error, path = %file.path.display(), "a file of records; trying again");
                    false
                });
                taken.insert(file.topic_hash, is_sent);
            }
            taken.into_iter().for_each(|(topic, is_taken)| self.held.tried(topic, is_taken));
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Whether all of a file was sent.
    async fn drain_file(self: &Arc<Self>, gateway: &Gateway, file: &HeldFile) -> io::Result<bool> {
        let reading = file.clone();
        let Some(records) = self.blocking(move |this| Ok(this.held.read(&reading)?)).await? else {
            self.metrics.journal.journal_damaged.inc();
            tracing::error!(path = %file.path.display(), "a file of records is damaged and was set aside");
            return Ok(true);
        };
        let all = records.len();
        let rest: Vec<_> = self.send(gateway, records).await.into_iter().map(|(record, _)| record).collect();
        let is_sent = rest.is_empty();
        if is_sent {
            self.metrics.journal.journal_replayed.inc();
        }
        if rest.len() < all {
            // Not given up: all of it would be sent again, and counted again once its ids are forgotten.
            let file = file.clone();
            let keep = move |this: &Self| Ok(this.held.keep_only(&file, &rest)?);
            self.insist("what was sent of a file cannot be written down; trying again", keep).await;
        }
        Ok(is_sent)
    }

    /// Looks at how much waits, and says so. Blocking.
    pub fn report(&self) {
        let (sent, mut oldest) = (self.sent.load(Ordering::Acquire), None);
        let read = self.log.read(sent, |record| {
            oldest = Some(record.at);
            false
        });
        if read.map(drop).and_then(|()| self.log.prepare()).is_err() {
            self.metrics.log.errors.inc();
        }
        let (mut waiting, held) = (self.log.measure(sent, oldest), self.held.bytes());
        waiting.bytes += held;
        self.metrics.log.waiting(waiting.bytes, waiting.oldest);
        let (status, detail) = match (self.log.is_full(), waiting.has_room) {
            _ if self.log.has_failed() => (Status::Degraded, "its writer ended by a fault: start the process again"),
            (_, false) => (Status::Degraded, "the disk is nearly full: events are refused while Kafka is away"),
            (true, true) => (Status::Degraded, "full: events are refused until Kafka is back"),
            (false, true) if held > 0 => (Status::Degraded, "Kafka takes nothing for a topic: its events wait"),
            (false, true) => (Status::Up, ""),
        };
        self.health.set("log", status, detail);
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || call(&this)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Does it however often it takes.
    async fn insist<T: Send + 'static>(
        self: &Arc<Self>,
        what: &str,
        call: impl Fn(&Self) -> io::Result<T> + Clone + Send + 'static,
    ) -> T {
        loop {
            match self.blocking(call.clone()).await {
                Ok(done) => return done,
                Err(error) => self.failed(what, &error).await,
            }
        }
    }

    fn commit(&self, next: i64) -> io::Result<()> {
        self.log.commit(next, "")?;
        self.sent.store(next, Ordering::Release);
        if let Some((_, end)) = self.log.ended_before(next).last() {
            self.log.retire(*end);
        }
        Ok(())
    }

    async fn failed(&self, what: &str, error: &io::Error) {
        self.metrics.log.errors.inc();
        tracing::error!(%error, "{what}");
        tokio::time::sleep(AGAIN_AFTER).await;
    }

    fn read(&self, from: i64) -> io::Result<(Vec<Addressed>, i64)> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let progress = self.log.read(from, |record| {
            bytes += record.payload.len();
            records.extend(read_all(Bytes::copy_from_slice(record.payload)));
            // A group as a whole: to begin again inside it means to read what comes before.
            bytes < AT_ONCE || !record.is_last
        })?;
        Ok((records, progress.next))
    }
}

#[cfg(test)]
mod tests;
