//! The gateway's spool: records that Kafka did not take, durable here until it does.
//!
//! A file holds the records of all requests that came while the one before was being synced. Files are sent in order by one
//! drainer; a file that Kafka took only in part is sent again as a whole. That repeats records, and their consumers know them
//! by their ids, as long as a file is younger than the window of ids: which is why age is bounded, too.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tallyhouse_service::clock::now_ms;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use ulid::Ulid;

use super::folder::{Content, Folder, FolderError};
use super::shelf::{Shelf, SpoolLimits};
use crate::kafka::gateway::{Destination, Gateway, Landing};
use crate::kafka::records::{Record, Records};
use crate::metrics::Metrics;
use crate::store::pause_after;

/// Requests that may wait for one sync.
const WAITING: usize = 4_096;

/// Bytes of one file, about.
const FILE_BYTES: usize = 8 << 20;

/// Between attempts to remove a file that is through.
const REMOVE_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Nothing of it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSpooled;

struct Put {
    frames: Vec<u8>,
    rows: usize,
    done: oneshot::Sender<bool>,
}

/// See the module.
pub struct RecordSpool {
    folder: Arc<Folder>,
    shelf: Shelf,
    puts: mpsc::Sender<Put>,
    metrics: Arc<Metrics>,
}

/// What [`RecordSpool::write`] works through.
pub struct Puts(mpsc::Receiver<Put>);

impl RecordSpool {
    /// Opens the folder and takes up what an earlier process left.
    pub fn open(folder: Folder, limits: SpoolLimits, metrics: Arc<Metrics>) -> Result<(Self, Puts), FolderError> {
        let (puts, receiver) = mpsc::channel(WAITING);
        let shelf = Shelf::new(limits);
        let found = folder.look()?;
        metrics.spool.journal_unfinished.inc_by(found.unfinished as u64);
        for path in found.files {
            shelf.put(&path, ());
        }
        Ok((Self { folder: Arc::new(folder), shelf, puts, metrics }, Puts(receiver)))
    }

    /// Makes records durable, with others that come at the same time.
    pub async fn put<'a>(&self, topic: &str, records: impl Iterator<Item = Record<'a>>) -> Result<(), NotSpooled> {
        let (mut frames, mut rows) = (Vec::new(), 0);
        for record in records {
            frame(topic, record, &mut frames);
            rows += 1;
        }
        if self.shelf.is_full(now_ms()) {
            self.metrics.spool.refused.inc_by(rows as u64);
            return Err(NotSpooled);
        }
        let (done, durable) = oneshot::channel();
        self.puts.try_send(Put { frames, rows, done }).map_err(|_| NotSpooled)?;
        match durable.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(NotSpooled),
        }
    }

    /// Writes what is put, a file for all that has come meanwhile. Ends with the spool.
    pub async fn write(&self, Puts(mut puts): Puts) {
        while let Some(first) = puts.recv().await {
            let mut group = vec![first];
            let mut bytes = 0;
            while bytes < FILE_BYTES
                && let Ok(put) = puts.try_recv()
            {
                bytes += put.frames.len();
                group.push(put);
            }
            let (mut chunks, mut waiting, mut rows) = (Vec::new(), Vec::new(), 0);
            for put in group {
                rows += put.rows;
                chunks.push(Bytes::from(put.frames));
                waiting.push(put.done);
            }
            let id = Ulid::generate();
            let content = Content { token: format!("records-{id}"), rows, chunks, days: Vec::new() };
            let is_durable = self.seal(&format!("{:016}-{id}", now_ms()), content).await;
            // Who no longer waits was answered by its deadline; its records are here all the same.
            waiting.into_iter().for_each(|done| {
                done.send(is_durable).ok();
            });
        }
    }

    async fn seal(&self, name: &str, content: Content) -> bool {
        let (folder, name, rows) = (Arc::clone(&self.folder), name.to_owned(), content.rows);
        let written = tokio::task::spawn_blocking(move || {
            let path = folder.write(&name, &content)?;
            folder.sync(&path)?;
            Ok::<_, FolderError>(path)
        });
        match written.await {
            Ok(Ok(path)) => {
                self.shelf.put(&path, ());
                self.metrics.spool.sealed.inc_by(rows as u64);
                true
            }
            Ok(Err(error)) => {
                self.metrics.spool.journal_errors.inc();
                tracing::error!(%error, "records cannot be spooled and are handed back");
                false
            }
            Err(error) => {
                tracing::error!(%error, "spooling failed");
                false
            }
        }
    }

    /// Sends files, the oldest first, as soon as Kafka takes them. Never ends.
    pub async fn drain(&self, gateway: &Gateway) {
        loop {
            let (path, ()) = self.shelf.first().await;
            let (folder, file) = (Arc::clone(&self.folder), path.clone());
            let content = match tokio::task::spawn_blocking(move || folder.read(&file)).await {
                Ok(Ok(Some(content))) => content,
                Ok(Ok(None)) => {
                    self.metrics.spool.journal_damaged.inc();
                    tracing::error!(path = %path.display(), "a spooled file is damaged and was set aside");
                    self.shelf.take(&path);
                    continue;
                }
                _ => {
                    self.metrics.spool.journal_errors.inc();
                    tracing::error!(path = %path.display(), "a spooled file cannot be read; trying again");
                    tokio::time::sleep(REMOVE_AGAIN_AFTER).await;
                    continue;
                }
            };
            let mut attempt = 1;
            while !deliver(gateway, &content).await {
                tokio::time::sleep(pause_after(attempt)).await;
                attempt = attempt.saturating_add(1);
            }
            while let Err(error) = self.folder.remove(&path) {
                self.metrics.spool.journal_errors.inc();
                tracing::error!(%error, "a file that was sent cannot be removed; trying again");
                tokio::time::sleep(REMOVE_AGAIN_AFTER).await;
            }
            self.shelf.take(&path);
        }
    }

    /// Files and bytes that wait, and the age of the oldest.
    pub fn report(&self) {
        self.metrics.spool.waiting(self.shelf.gauges(now_ms()));
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.shelf.is_empty()
    }
}

/// Sends a file's records. Whether Kafka has all of them.
async fn deliver(gateway: &Gateway, content: &Content) -> bool {
    let mut by_topic: Vec<(String, Records)> = Vec::new();
    for chunk in &content.chunks {
        let mut rest = chunk.clone();
        while let Some((topic, hash, payload)) = unframe(&mut rest) {
            match by_topic.iter_mut().find(|(known, _)| *known == topic) {
                Some((_, records)) => records.push(hash, &payload),
                None => {
                    let mut records = Records::default();
                    records.push(hash, &payload);
                    by_topic.push((topic, records));
                }
            }
        }
    }
    for (topic, records) in by_topic {
        let destination: Destination = match gateway.destination(&topic).await {
            Ok(destination) => destination,
            Err(_) => return false,
        };
        let in_flight = gateway.send(destination, records, None);
        let landings = in_flight.landed(Instant::now() + Duration::from_secs(30)).await;
        // What has become too large since it was taken would block the file for ever: it is loud in the metrics, and set aside.
        let too_large = landings.iter().filter(|landing| **landing == Landing::TooLarge).count();
        if too_large > 0 {
            tracing::error!(
                topic,
                too_large,
                "spooled records are larger than their topic takes now; enlarge `max.message.bytes`"
            );
        }
        if !landings.iter().all(|landing| matches!(landing, Landing::Acknowledged { .. })) {
            return false;
        }
    }
    true
}

/// Length of the topic, topic, hash, length of the payload, payload.
fn frame(topic: &str, record: Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&(topic.len() as u32).to_le_bytes());
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&record.hash.to_le_bytes());
    out.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(record.payload);
}

/// The next frame; `None` at the end. The file's checksum says that frames are whole.
fn unframe(rest: &mut Bytes) -> Option<(String, u64, Bytes)> {
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
    fn frames_come_back_as_they_were() {
        let mut out = Vec::new();
        frame("a", Record { hash: 7, payload: b"one" }, &mut out);
        frame("events.b", Record { hash: u64::MAX, payload: b"" }, &mut out);
        let mut rest = Bytes::from(out);
        assert_eq!(unframe(&mut rest), Some(("a".to_owned(), 7, Bytes::from_static(b"one"))));
        assert_eq!(unframe(&mut rest), Some(("events.b".to_owned(), u64::MAX, Bytes::new())));
        assert_eq!(unframe(&mut rest), None);
    }
}
