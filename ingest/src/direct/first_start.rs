//! The first start of a folder: reads recent ids from ClickHouse, and keeps ids in the folder from then on.

use std::io;
use std::time::Duration;

use tallyhouse_service::health::Status;
use tallyhouse_sql::StoreError;

use super::ids::{self, Id, Source};
use super::{Direct, StartError, known_id, restored};
use crate::dedup_warm_up::{self, IdFilter, RecentId};

impl Direct {
    /// Warms the deduplication window from ClickHouse. Tries until it answers; only missing tables end it.
    pub(super) async fn warm_up(&self) -> Result<(), StartError> {
        let dedup = self.common.windows.limits();
        self.tables_ready.cancelled().await;
        loop {
            let remember = |id: RecentId, at| {
                let key = self.appender.hasher().key(&id.project_id, &id.event_id);
                self.appender.window().insert(key, -1, at);
            };
            match dedup_warm_up::load(&self.store.everything, &IdFilter::Given, dedup, remember).await {
                Ok(warm_up) => {
                    tracing::info!(
                        ids = warm_up.ids,
                        "the deduplication window is warm: recent ids were read from ClickHouse"
                    );
                    break;
                }
                // UNKNOWN_TABLE, UNKNOWN_DATABASE, UNKNOWN_IDENTIFIER, NO_SUCH_COLUMN_IN_TABLE
                Err(error @ StoreError::Refused { code: 60 | 81 | 47 | 16, .. }) => {
                    return Err(StartError::NotMigrated(error));
                }
                Err(error) => {
                    tracing::warn!(%error, "recent ids could not be read for the deduplication window; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        self.store.health.set("clickhouse", Status::Up, "");
        Ok(())
    }

    /// Keeps ids that did not come through the log. From then on the folder knows its ids.
    pub(super) fn keep_other_ids(&self) -> io::Result<()> {
        let ids: Vec<Id> = self.appender.window().iter().filter(|(_, offset, _)| *offset < 0).map(known_id()).collect();
        if self.has_ids {
            // Beside those of the first start, which nobody could read again.
            return ids::save(&self.disk, Source::Journal, &ids);
        }
        ids::save(&self.disk, Source::ClickHouse, &ids)?;
        self.log.commit(self.partition.first(), "")?;
        restored::has_ids(&self.disk)
    }
}
