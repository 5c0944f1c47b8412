//! Streams everything that is kept about a person.
//!
//! Tables are read one after the other, each of one shard after the other, and lines are given on as they come: nothing is held but what the reader has not taken yet.
//! An export that stands still, takes too long or grows too large is broken off, which the reader sees as a connection that ends
//! before its end.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use tallyhouse_sql::person_export::{TABLES, read};
use tallyhouse_sql::{AllShards, ShardsError, StoreError};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::erasure::Person;

/// All of it.
const WITHIN: Duration = Duration::from_secs(900);

/// How long the reader may stand still.
const STALL: Duration = Duration::from_secs(30);

/// The first bytes.
const FIRST_WITHIN: Duration = Duration::from_secs(60);

const MAX_BYTES: u64 = 4 << 30;

/// Exports at a time, of all projects.
const AT_ONCE: usize = 4;

/// Pieces that the reader has not taken.
const AHEAD: usize = 4;

/// Exports that have not ended: each holds a connection and reads all of a project. Clones share them.
#[derive(Clone, Default)]
pub struct Exporting(Arc<Mutex<BTreeSet<String>>>);

/// Lets a project export, until it goes.
pub struct ExportPermit {
    exporting: Exporting,
    project: String,
}

/// Why an export has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    #[error("an export of this project is under way; try again when it is done")]
    Project,
    #[error("{AT_ONCE} exports of people are under way; try again when one is done")]
    Installation,
}

impl Exporting {
    /// One at a time for each project, so that a project does not keep others waiting.
    pub fn begin(&self, project: &str) -> Result<ExportPermit, Busy> {
        let mut exporting = self.lock();
        if exporting.contains(project) {
            return Err(Busy::Project);
        }
        if exporting.len() >= AT_ONCE {
            return Err(Busy::Installation);
        }
        exporting.insert(project.to_owned());
        Ok(ExportPermit { exporting: self.clone(), project: project.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ExportPermit {
    fn drop(&mut self) {
        self.exporting.lock().remove(&self.project);
    }
}

/// An export that has begun.
pub struct Export {
    lines: mpsc::Receiver<io::Result<Bytes>>,
}

impl Export {
    /// Its lines, in pieces.
    pub fn lines(self) -> impl Stream<Item = io::Result<Bytes>> {
        stream::unfold(self.lines, async |mut lines| lines.recv().await.map(|piece| (piece, lines)))
    }
}

/// Begins one; an error here is one of ClickHouse before the first line.
pub async fn begin(
    shards: &AllShards,
    Person { user_id, anonymous_id }: Person,
    permit: ExportPermit,
) -> Result<Export, ShardsError> {
    // One that is away would break off what was begun.
    shards.require().await?;
    let (user, anonymous) = (user_id.unwrap_or_default(), anonymous_id.unwrap_or_default());
    let mut cursors = Vec::new();
    for table in TABLES {
        for client in shards.iter() {
            cursors.push(read(client, table, &permit.project, &user, &anonymous)?);
        }
    }
    let mut cursors = cursors.into_iter();
    let Some(mut cursor) = cursors.next() else { return Err(StoreError::TimedOut.into()) };
    let first = timeout(FIRST_WITHIN, cursor.next()).await.map_err(|_| StoreError::TimedOut)?;
    let first = first.map_err(StoreError::from)?;
    let (sender, lines) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let _permit = permit;
        let (mut next, mut bytes, until) = (first, 0_u64, Instant::now() + WITHIN);
        loop {
            if let Some(piece) = next {
                bytes += piece.len() as u64;
                let is_taken = timeout(STALL, sender.send(Ok(piece))).await.is_ok_and(|sent| sent.is_ok());
                if !is_taken {
                    return;
                }
                if bytes > MAX_BYTES {
                    broken(&sender, "the export of a person is too large").await;
                    return;
                }
            } else {
                match cursors.next() {
                    Some(other) => cursor = other,
                    None => return,
                }
            }
            next = match timeout_at(until, cursor.next()).await {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => {
                    tracing::warn!(error = %StoreError::from(error), "the export of a person broke off");
                    broken(&sender, "the data store broke off").await;
                    return;
                }
                Err(_) => {
                    broken(&sender, "the export of a person took too long").await;
                    return;
                }
            };
        }
    });
    Ok(Export { lines })
}

async fn broken(sender: &mpsc::Sender<io::Result<Bytes>>, why: &'static str) {
    drop(timeout(STALL, sender.send(Err(io::Error::other(why)))).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_one_export_at_a_time_and_all_have_a_few() {
        let exporting = Exporting::default();
        let first = exporting.begin("a").ok().unwrap();
        assert_eq!(exporting.begin("a").err(), Some(Busy::Project));
        let others: Vec<_> = ["b", "c", "d"].map(|project| exporting.begin(project).ok().unwrap()).into();
        assert_eq!(exporting.begin("e").err(), Some(Busy::Installation));
        drop(first);
        assert!(exporting.begin("a").is_ok() && exporting.begin("e").is_ok(), "each goes with its permit");
        assert_eq!(exporting.begin("b").err(), Some(Busy::Project));
        drop(others);
    }
}
