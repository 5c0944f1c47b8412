//! When keys were used: kept per process in memory, written at most once a minute.

use std::collections::HashMap;

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Row};

use crate::snapshot::Snapshot;
use crate::sql;
use crate::store::{ControlError, ControlStore, within};

/// Keys of one insert at most.
const AT_ONCE: usize = 5_000;

/// A use of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyUse {
    project: String,
    key: String,
    pub(crate) used_ms: i64,
}

#[derive(Row, Deserialize)]
struct LastUsed {
    key_id: String,
    used_ms: i64,
}

/// The keys that were used after an instant, the oldest use first. Those of development have no place in the table.
pub(crate) fn since(snapshot: &Snapshot, until_ms: i64) -> Vec<KeyUse> {
    let used = snapshot.keys().filter(|key| !key.is_fixed()).filter_map(|key| {
        let used_ms = key.used_ms().filter(|used_ms| *used_ms > until_ms)?;
        Some(KeyUse {
            project: key.project.as_deref().unwrap_or_default().to_owned(),
            key: key.id.to_string(),
            used_ms,
        })
    });
    let mut used: Vec<KeyUse> = used.collect();
    used.sort_by_key(|used| used.used_ms);
    used
}

/// Writes them.
pub(crate) async fn write(store: &ControlStore, uses: &[KeyUse]) -> Result<(), ControlError> {
    for uses in uses.chunks(AT_ONCE) {
        let column = |of: fn(&KeyUse) -> &str| uses.iter().map(of).collect::<Vec<_>>();
        let insert = store
            .writer()?
            .query(sql::USED)
            .param("projects", column(|used| &used.project))
            .param("keys", column(|used| &used.key))
            .param("used", uses.iter().map(|used| used.used_ms).collect::<Vec<_>>())
            .with_setting("async_insert", "0");
        within(insert.execute()).await?;
    }
    Ok(())
}

/// When keys were last used, by any process: of a project, or all. Milliseconds since 1970.
pub async fn last_used(store: &ControlStore, project: Option<&str>) -> Result<HashMap<String, i64>, ControlError> {
    let rows = store.reader().query(sql::LAST_USED).param("all", u8::from(project.is_none()));
    let rows = rows.param("project", project.unwrap_or_default()).fetch_all::<LastUsed>();
    Ok(within(rows).await?.into_iter().map(|row| (row.key_id, row.used_ms)).collect())
}
