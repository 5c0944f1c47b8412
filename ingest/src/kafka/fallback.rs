//! What Kafka does not take while it is away: appended to a local log of the gateway, and sent in order as soon as Kafka takes it.
//!
//! ```text
//! put -> local log, synced -> acknowledged … read -> produce -> acknowledged by Kafka -> commit -> segments go
//! ```
//!
//! What was sent and not committed when the process ended is sent again. That repeats records, and their consumers know them by their ids,
//! as long as they are younger than the window of ids: which is why age is bounded, too.
//!
//! Failure cases beside those of the log ([`crate::log::local`]):
//! * a record has become larger than its topic takes: it is kept in a file of its own (`….too-large`), counted and named in the log, and the
//!   others go on. Enlarge `max.message.bytes`, and rename the file to `….batch` in the folder `records` before the next start;
//! * a file of a version without a log (`records/*.batch`): it is appended to the log at the start, and removed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tallyhouse_service::health::{Health, Status};
use tokio::time::Instant;

use super::gateway::{Gateway, Landing};
use super::records::{Record, Records};
use crate::log::local::disk::Folder as LogFolder;
use crate::log::local::{Limits, LocalLog, Options, Outcome, Sync, Writer, frame};
use crate::metrics::Metrics;
use crate::spool::folder::{Folder, FolderError};
use crate::store::pause_after;

/// Bytes that are sent at a time.
const AT_ONCE: usize = 1 << 20;

/// How long Kafka may take for them.
const LAND_WITHIN: Duration = Duration::from_secs(30);

/// Between attempts to read, to commit or to keep a record.
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Between syncs of the log that only the drain wants.
const SYNC_EVERY: Duration = Duration::from_millis(100);

/// A record with its topic and what places it.
type Addressed = (String, u64, Bytes);

/// Nothing of it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTaken;

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FallbackError {
    /// The folder.
    #[error("{0}")]
    Folder(#[from] FolderError),
    /// The log in it.
    #[error("the gateway's log: {0}")]
    Log(#[from] io::Error),
}

/// See the module.
pub struct Fallback {
    log: Arc<LocalLog>,
    /// Files of a version without a log, and the lock.
    folder: Folder,
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
        let folder = Folder::open(&path.join("records"))?;
        let disk = LogFolder::open(&path.join("fallback"))?;
        // Repeats are known to who reads from Kafka.
        let options = Options { sync, limits, metrics: Arc::clone(&metrics), on_lost: Box::new(|_| {}) };
        let (log, committed) = LocalLog::on(disk, options, |_| {})?;
        let sent = committed.map_or(0, |committed| committed.next);
        Ok(Self { log: Arc::new(log), folder, sent: AtomicI64::new(sent), metrics, health })
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
        if self.log.is_full() {
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
        self.convert().await;
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
            let mut attempt = 1;
            while !self.deliver(gateway, &records).await {
                tokio::time::sleep(pause_after(attempt)).await;
                attempt = attempt.saturating_add(1);
            }
            while let Err(error) = self.blocking(move |this| this.commit(next)).await {
                self.failed("what was sent cannot be written down; trying again", &error).await;
            }
        }
    }

    /// Looks at how much waits, and says so. Blocking.
    pub fn report(&self) {
        let (sent, mut oldest) = (self.sent.load(Ordering::Acquire), None);
        let read = self.log.read(sent, |record| {
            oldest = Some(record.at);
            false
        });
        if read.is_err() {
            self.metrics.log.errors.inc();
        }
        let waiting = self.log.measure(sent, oldest);
        self.metrics.log.waiting(waiting);
        let (status, detail) = match (self.log.is_full(), waiting.has_room) {
            (_, false) => (Status::Degraded, "the disk is nearly full: events are refused while Kafka is away"),
            (true, true) => (Status::Degraded, "full: events are refused until Kafka is back"),
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
            records.extend(addressed(&mut Bytes::copy_from_slice(record.payload)));
            bytes < AT_ONCE
        })?;
        Ok((records, progress.next))
    }

    /// Sends records. Whether all are in Kafka, or kept in files of their own.
    async fn deliver(&self, gateway: &Gateway, all: &[Addressed]) -> bool {
        for (topic, records) in by_topic(all) {
            let Ok(destination) = gateway.destination(topic).await else { return false };
            let in_flight = gateway.send(destination, records, None);
            let landings = in_flight.landed(Instant::now() + LAND_WITHIN).await;
            for (record, landing) in in_flight.records.iter().zip(&landings) {
                match landing {
                    Landing::Acknowledged { .. } => {}
                    Landing::TooLarge => self.keep(topic, record).await,
                    Landing::Pending | Landing::Spooled | Landing::Failed => return false,
                }
            }
        }
        true
    }

    /// Keeps a record that its topic does not take, in the format of the files of a version without a log.
    async fn keep(&self, topic: &str, record: Record<'_>) {
        let mut bytes = Vec::new();
        address(topic, record, &mut bytes);
        let name = format!("{:016x}-{:08x}", record.hash, crc32fast::hash(&bytes));
        while let Err(error) = self.folder.keep(&name, "too-large", &bytes) {
            self.metrics.log.errors.inc();
            tracing::error!(%error, "a record that is too large cannot be kept; trying again");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        self.metrics.log.too_large.inc();
        tracing::error!(
            topic,
            name,
            "a record is larger than its topic takes now, and is kept in a file; enlarge `max.message.bytes`"
        );
    }

    /// Appends files of a version without a log. Tries until it is done.
    async fn convert(&self) {
        let files = match self.folder.look() {
            Ok(found) => found.files,
            Err(error) => {
                self.metrics.spool.journal_errors.inc();
                tracing::error!(%error, "files of an earlier version cannot be read; they are at the next start");
                return;
            }
        };
        for path in files {
            match self.folder.read(&path) {
                Ok(Some(content)) => {
                    let mut rest = Bytes::from(content.chunks.concat());
                    let all: Vec<_> = std::iter::from_fn(|| addressed(&mut rest)).collect();
                    for (topic, records) in by_topic(&all) {
                        while self.put(topic, records.iter(), Instant::now() + LAND_WITHIN).await.is_err() {
                            tokio::time::sleep(AGAIN_AFTER).await;
                        }
                    }
                    self.metrics.spool.journal_replayed.inc();
                    if let Err(error) = self.folder.remove(&path) {
                        self.metrics.spool.journal_errors.inc();
                        tracing::error!(%error, "a file of an earlier version cannot be removed, and is read again at the next start");
                    }
                }
                Ok(None) => {
                    self.metrics.spool.journal_damaged.inc();
                    tracing::error!(path = %path.display(), "a spooled file is damaged and was set aside");
                }
                Err(error) => {
                    self.metrics.spool.journal_errors.inc();
                    tracing::error!(%error, "a file of an earlier version cannot be read; it is at the next start");
                }
            }
        }
    }
}

fn by_topic(all: &[Addressed]) -> Vec<(&str, Records)> {
    let mut by_topic: Vec<(&str, Records)> = Vec::new();
    for (topic, hash, payload) in all {
        match by_topic.iter_mut().find(|(known, _)| known == topic) {
            Some((_, records)) => records.push(*hash, payload),
            None => {
                let mut records = Records::default();
                records.push(*hash, payload);
                by_topic.push((topic, records));
            }
        }
    }
    by_topic
}

/// Length of the topic, topic, hash, length of the payload, payload.
fn address(topic: &str, record: Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&(topic.len() as u32).to_le_bytes());
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&record.hash.to_le_bytes());
    out.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(record.payload);
}

/// The next one; `None` at the end. The log's checksums say that it is whole.
fn addressed(rest: &mut Bytes) -> Option<Addressed> {
    let length = rest.try_get_u32_le().ok()? as usize;
    let topic = (rest.len() >= length).then(|| rest.split_to(length))?;
    let hash = rest.try_get_u64_le().ok()?;
    let length = rest.try_get_u32_le().ok()? as usize;
    let payload = (rest.len() >= length).then(|| rest.split_to(length))?;
    Some((String::from_utf8_lossy(&topic).into_owned(), hash, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let mut out = Vec::new();
        address("a", Record { hash: 7, payload: b"one" }, &mut out);
        address("events.b", Record { hash: u64::MAX, payload: b"" }, &mut out);
        let mut rest = Bytes::from(out);
        assert_eq!(addressed(&mut rest), Some(("a".to_owned(), 7, Bytes::from_static(b"one"))));
        assert_eq!(addressed(&mut rest), Some(("events.b".to_owned(), u64::MAX, Bytes::new())));
        assert_eq!(addressed(&mut rest), None);
    }
}
