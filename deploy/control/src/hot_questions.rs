//! The questions that were asked most, so that a query API without any cached answers, such as that of another region after a restore, asks them
//! before its readers do. Bounded per project and in all; never who asked, and no key.

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Row};

use crate::sql;
use crate::store::{ControlError, ControlStore, within};

/// Questions of one project at most.
const PER_PROJECT: u32 = 32;

/// Questions in all at most.
const IN_ALL: u32 = 256;

/// A question and its project.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Row, Deserialize)]
pub struct HotQuestion {
    #[serde(rename = "project_id")]
    pub project: String,
    /// JSON, which the query API alone understands.
    pub question: String,
    /// How often it was asked lately.
    pub hits: u32,
}

/// Writes them.
pub async fn write(store: &ControlStore, questions: &[HotQuestion]) -> Result<(), ControlError> {
    let insert = store
        .writer()?
        .query(sql::ASKED)
        .param("projects", questions.iter().map(|asked| &*asked.project).collect::<Vec<_>>())
        .param("questions", questions.iter().map(|asked| &*asked.question).collect::<Vec<_>>())
        .param("hits", questions.iter().map(|asked| asked.hits).collect::<Vec<_>>())
        .with_setting("async_insert", "0");
    within(insert.execute()).await
}

/// The hottest of each project, the hottest of all first.
pub async fn hottest(store: &ControlStore) -> Result<Vec<HotQuestion>, ControlError> {
    let rows = store.reader().query(sql::HOTTEST).param("of_project", PER_PROJECT).param("all", IN_ALL);
    within(rows.fetch_all::<HotQuestion>()).await
}
