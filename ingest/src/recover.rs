//! Start: take up what an earlier process left, and learn which ids are known. Nothing is taken before both are done.
//!
//! Files that are left are drained in the background; their ids are known from the files. While ClickHouse is away at start,
//! known ids cannot be read, and taking events without them could count a repeated one twice: so the start waits for it.
//!
//! Failure cases:
//! * a file is damaged: it is set aside, and its events are lost unless they are sent again (`journal_damaged`);
//! * a file is whole but its ids cannot be read, as of another version: it is sent as it is, and repeats of its events are
//!   not recognised until they are read back from ClickHouse at the next start (`journal_errors`).

use std::time::Duration;

use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::native;

use crate::config::DedupLimits;
use crate::inserter::{Inserter, Sealed};
use crate::intake::Intake;
use crate::known::{self, IdFilter, KnownId};
use crate::spool::folder::FolderError;

/// Why the ingester cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// What is left cannot be read.
    #[error("{0}")]
    Folder(#[from] FolderError),
    /// The tables are not there.
    #[error("the tables are missing or older than this version; run `tallyhouse migrate up`: {0}")]
    NotMigrated(StoreError),
}

/// Takes up files that are left, oldest first; half-written ones are removed, damaged ones set aside. Blocking.
pub fn adopt(inserter: &Inserter, intake: &Intake) -> Result<usize, RecoverError> {
    let found = inserter.folder.look()?;
    inserter.metrics.spool.journal_unfinished.inc_by(found.unfinished as u64);
    let mut adopted = 0;
    for path in found.files {
        let Some(content) = inserter.folder.read(&path)? else {
            inserter.metrics.spool.journal_damaged.inc();
            tracing::error!(path = %path.display(), "a batch on the disk is damaged and was set aside");
            continue;
        };
        // It outlived its process, and now its requests' successors may be told that it is durable.
        inserter.folder.sync(&path)?;
        let block = content.chunks.concat();
        let ids = native::leading_texts::<2>(&block).unwrap_or_else(|| {
            inserter.metrics.spool.journal_errors.inc();
            tracing::error!(
                path = %path.display(),
                rows = content.rows,
                "the ids of a batch on the disk cannot be read: its events are stored, but repeats of them are not known"
            );
            Vec::new()
        });
        let promise = intake.adopt(ids.iter().map(|[project, id]| (*project, *id)));
        inserter.shelf.put(&path, Sealed::adopted(promise));
        inserter.metrics.spool.journal_replayed.inc();
        adopted += 1;
    }
    Ok(adopted)
}

/// Fills the window with ids of stored events, oldest first, as far back as it reaches or can hold.
///
/// Tries until ClickHouse answers; only missing tables end it.
pub async fn warm(client: &Client, intake: &Intake, dedup: DedupLimits) -> Result<usize, RecoverError> {
    loop {
        let remember = |id: KnownId, at| intake.remember(&id.project_id, &id.event_id, at);
        match known::read(client, &IdFilter::Given, dedup, remember).await {
            Ok(ids) => return Ok(ids),
            // UNKNOWN_TABLE, UNKNOWN_DATABASE, UNKNOWN_IDENTIFIER, NO_SUCH_COLUMN_IN_TABLE
            Err(error @ StoreError::Refused { code: 60 | 81 | 47 | 16, .. }) => {
                return Err(RecoverError::NotMigrated(error));
            }
            Err(error) => {
                tracing::warn!(%error, "known ids could not be read; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use prometheus::Registry;
    use tallyhouse_service::day_versions::DayVersions;
    use tallyhouse_service::health::Health;
    use tallyhouse_sql::native::{Column, Field};

    use super::*;
    use crate::config::BatchLimits;
    use crate::metrics::Metrics;
    use crate::poison::BatchWriter;
    use crate::spool::folder::{Content, Folder};
    use crate::spool::shelf::{Shelf, SpoolLimits};
    use crate::store::Store;
    use crate::touched::Publisher;

    /// An inserter over an empty folder that goes with the value. It speaks to nobody.
    struct Place {
        path: std::path::PathBuf,
        inserter: Inserter,
        intake: Intake,
    }

    impl Place {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("tallyhouse-recover-{}", ulid::Ulid::generate()));
            let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
            let store = Store {
                client: Client::default(),
                timeout: Duration::from_secs(1),
                metrics: Arc::clone(&metrics),
                health: Health::default(),
                touched: Publisher::new(DayVersions::default(), false, Arc::clone(&metrics)),
            };
            let folder = Arc::new(Folder::open(&path).unwrap());
            let shelf = Arc::new(Shelf::new(SpoolLimits { bytes: 1 << 20, age: Duration::from_secs(3_600) }));
            let batch = BatchLimits {
                rows: 3,
                bytes: 1 << 20,
                linger: Duration::ZERO,
                pace: Duration::ZERO,
                inserts: 1,
                waiting: 1,
                insert_timeout: Duration::from_secs(1),
                refused_grace: Duration::ZERO,
            };
            let intake = Intake::new(batch, DedupLimits { window: Duration::from_secs(3_600), ids: 1_000 });
            let writer = BatchWriter::new(store.clone(), Duration::ZERO);
            Self { path, inserter: Inserter { store, writer, folder, shelf, metrics, took_ms: Arc::default() }, intake }
        }

        fn left_behind(&self, name: &str, chunks: Vec<Bytes>) {
            let content = Content { token: name.to_owned(), rows: 2, chunks, days: vec![] };
            self.inserter.folder.write(name, &content).unwrap();
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.path));
        }
    }

    fn block(ids: [&str; 2]) -> Vec<Bytes> {
        let (mut projects, mut events) = (Column::default(), Column::default());
        for id in ids {
            projects.text("p");
            events.text(id);
        }
        let field = |name, column| Field { name, kind: "String", parts: vec![column] };
        native::block(ids.len(), vec![field("project_id", projects), field("event_id", events)])
    }

    #[test]
    fn a_batch_whose_ids_cannot_be_read_is_adopted_and_counted() {
        let place = Place::new();
        place.left_behind("1", block(["a", "b"]));
        assert_eq!(adopt(&place.inserter, &place.intake).unwrap(), 1);
        assert_eq!((place.intake.gauges(0).pending_ids, place.inserter.metrics.spool.journal_errors.get()), (2, 0));

        let place = Place::new();
        place.left_behind("1", vec![Bytes::from_static(b"\x02\x02 of another version")]);
        place.left_behind("2", block(["a", "b"]));
        assert_eq!(adopt(&place.inserter, &place.intake).unwrap(), 2, "it is sent all the same");
        assert_eq!((place.intake.gauges(0).pending_ids, place.inserter.metrics.spool.journal_errors.get()), (2, 1));
    }
}
