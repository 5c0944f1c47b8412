//! Records in ClickHouse. Creating is compare-and-set:
//!
//! ```text
//! which version is in force? -> insert the next one under its own token, with a claim of ours -> whose claim is kept? -> ours: created
//!                                                                                             '-> another's: conflict
//!                                                                                             '-> nobody's: the token was taken
//!                                                                                                 for a repeat; again under another
//! ```
//!
//! ClickHouse keeps one insert per token, on replicated tables across replicas, so one of any number of writers wins. What can go wrong:
//!
//! * A token is remembered, but its row is not there: somebody removed rows, or restored an older table in place. The read-back finds
//!   nobody, and the insert is repeated under another token instead of being swallowed.
//! * A writer is held up for longer than tokens are remembered: its insert adds nothing unless the version before is still in force.
//! * A replica does not have the winner's row yet: the read-back waits for it (`SETTLE`).
//! * ClickHouse does not answer an insert: it may be carried out later. The caller is told that nothing is known, and a second attempt
//!   meets either nothing or a conflict.

use std::time::Duration;

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Client, Row};
use tallyhouse_sql::rollups::is_replicated;
use tallyhouse_sql::{Connection, StoreError};
use tokio::time::{Instant, sleep};
use ulid::Ulid;

use crate::kind::Kind;
use crate::records::Record;
use crate::sql;

/// The longest that ClickHouse may take for one statement.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a replica may take to show what another one has.
const SETTLE: Duration = Duration::from_secs(2);
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// Tokens that are tried for one version.
const TOKENS: u32 = 3;

/// The longest document.
pub const MAX_DOCUMENT: usize = 256 << 10;

/// Where records are kept.
#[derive(Clone)]
pub struct ControlStore {
    reader: Client,
    /// `None` where the service was given no user that may write: then nothing can be created here.
    writer: Option<Client>,
}

/// A version that is to be.
#[derive(Debug, Clone, Copy)]
pub struct New<'a> {
    pub kind: Kind,
    /// Empty for what belongs to the installation.
    pub project: &'a str,
    pub name: &'a str,
    /// The version in force, as the caller knows it; 0 when there is none.
    pub replaces: u32,
    /// JSON.
    pub document: &'a str,
    /// Who creates it.
    pub by: &'a str,
}

/// Why nothing was created or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No user that may write is configured.
    #[error("nothing can be created here: set CLICKHOUSE_WRITER_USER and CLICKHOUSE_WRITER_PASSWORD")]
    NotConfigured,
    /// Another version is in force than the caller knows.
    #[error("{}", conflict(*.in_force))]
    Conflict {
        /// The one in force; 0 when there is none.
        in_force: u32,
    },
    /// Longer than [`MAX_DOCUMENT`].
    #[error("the document has {found} bytes, and may have {MAX_DOCUMENT}")]
    TooLarge { found: usize },
    /// ClickHouse. Details are in the log. Whether something was written is not known.
    #[error("the data store is not available at the moment; try again")]
    Unavailable,
}

fn conflict(in_force: u32) -> String {
    match in_force {
        0 => "there is nothing of this name to replace".to_owned(),
        version => format!("somebody else was first: version {version} is in force; read it and try again"),
    }
}

/// How far the table is. Another one means that something was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Row, Deserialize, serde::Serialize)]
pub struct Mark {
    /// How many versions there are.
    pub versions: u64,
    /// When the newest was written, of ClickHouse's clock; 0 when there is none.
    pub newest_ms: i64,
}

#[derive(Row, Deserialize)]
struct Stored {
    kind: String,
    project_id: String,
    name: String,
    version: u32,
    document: String,
    created_by: String,
    created_ms: i64,
}

impl ControlStore {
    /// Records of this ClickHouse.
    pub fn new(reader: &Connection, writer: Option<&Connection>) -> Self {
        Self { reader: reader.client(), writer: writer.map(Connection::client) }
    }

    /// Whether records can be created.
    pub const fn can_write(&self) -> bool {
        self.writer.is_some()
    }

    /// Whether its tables are replicated.
    pub(crate) async fn is_replicated(&self) -> Result<bool, ControlError> {
        is_replicated(self.writer()?).await.map_err(|error| {
            tracing::warn!(%error, "the control plane");
            ControlError::Unavailable
        })
    }

    pub(crate) fn writer(&self) -> Result<&Client, ControlError> {
        self.writer.as_ref().ok_or(ControlError::NotConfigured)
    }

    pub(crate) const fn reader(&self) -> &Client {
        &self.reader
    }

    /// How far the table is.
    pub async fn mark(&self) -> Result<Mark, ControlError> {
        quietly(self.reader.query(sql::MARK).fetch_one::<Mark>()).await
    }

    /// The versions in force of what was written since an instant, by ClickHouse's clock. Kinds of a newer version are left out.
    pub async fn read_since(&self, since_ms: i64) -> Result<Vec<Record>, ControlError> {
        let stored = self.reader.query(sql::IN_FORCE_SINCE).param("since", since_ms).fetch_all::<Stored>();
        Ok(quietly(stored).await?.into_iter().filter_map(Stored::record).collect())
    }

    /// The versions of a name, the newest first.
    pub async fn versions(
        &self,
        kind: Kind,
        project: &str,
        name: &str,
        most: u32,
    ) -> Result<Vec<Record>, ControlError> {
        // From where it was written: a replica may not have it yet.
        let client = self.writer.as_ref().unwrap_or(&self.reader);
        let stored = client.query(sql::VERSIONS).param("most", most);
        let stored =
            stored.param("kind", kind.name()).param("project", project).param("name", name).fetch_all::<Stored>();
        Ok(within(stored).await?.into_iter().filter_map(Stored::record).collect())
    }

    /// The version of a name that is in force.
    pub async fn in_force(&self, kind: Kind, project: &str, name: &str) -> Result<Option<Record>, ControlError> {
        Ok(self.versions(kind, project, name, 1).await?.into_iter().next())
    }

    /// Writes the next version. Returns its number.
    pub async fn create(&self, new: &New<'_>) -> Result<u32, ControlError> {
        let writer = self.writer()?;
        if new.document.len() > MAX_DOCUMENT {
            return Err(ControlError::TooLarge { found: new.document.len() });
        }
        let in_force = writer.query(sql::IN_FORCE).param("kind", new.kind.name());
        let in_force = in_force.param("project", new.project).param("name", new.name).fetch_one::<u32>();
        let in_force = within(in_force).await?;
        if in_force != new.replaces {
            return Err(ControlError::Conflict { in_force });
        }
        let (version, claim) = (in_force + 1, Ulid::generate().to_string());
        for token in 1..=TOKENS {
            insert(writer, new, version, &claim, token).await?;
            match winner(writer, new, version).await? {
                Some(winner) if winner == claim => return Ok(version),
                Some(_) => return Err(ControlError::Conflict { in_force: version }),
                None => {
                    tracing::warn!(kind = %new.kind, project = new.project, name = new.name, version, token,
                        "ClickHouse remembers this version and does not have it; writing it under another token");
                }
            }
        }
        Err(ControlError::Unavailable)
    }
}

async fn insert(writer: &Client, new: &New<'_>, version: u32, claim: &str, token: u32) -> Result<(), ControlError> {
    let New { kind, project, name, document, by, .. } = *new;
    let insert = writer
        .query(sql::CREATE)
        .param("kind", kind.name())
        .param("project", project)
        .param("name", name)
        .param("version", version)
        .param("document", document)
        .param("claim", claim)
        .param("created_by", by)
        .with_setting("async_insert", "0")
        .with_setting("insert_deduplicate", "1")
        .with_setting("deduplicate_insert", "enable")
        // By itself a SELECT is not taken for the same as another one, whatever its token.
        .with_setting("deduplicate_insert_select", "force_enable")
        // On a cluster: done when the shard has it.
        .with_setting("distributed_foreground_insert", "1")
        // The name last: whatever is in it, no two versions have one token.
        .with_setting("insert_deduplication_token", format!("{kind}/{project}/{version}/{token}/{name}"));
    within(insert.execute()).await
}

/// Whose claim was kept; `None` when nobody's shows up.
async fn winner(writer: &Client, new: &New<'_>, version: u32) -> Result<Option<String>, ControlError> {
    let until = Instant::now() + SETTLE;
    loop {
        let winner = writer.query(sql::WINNER).param("kind", new.kind.name()).param("project", new.project);
        let winner = winner.param("name", new.name).param("version", version).fetch_optional::<String>();
        match within(winner).await? {
            Some(winner) => return Ok(Some(winner)),
            None if Instant::now() >= until => return Ok(None),
            None => sleep(SETTLE_PAUSE).await,
        }
    }
}

impl Stored {
    fn record(self) -> Option<Record> {
        let Self { kind, project_id, name, version, document, created_by, created_ms } = self;
        let kind = Kind::named(&kind)?;
        Some(Record { kind, project: project_id.into(), name: name.into(), version, document, created_by, created_ms })
    }
}

/// What ClickHouse answers in time.
pub(crate) async fn within<T>(
    call: impl Future<Output = Result<T, clickhouse::error::Error>>,
) -> Result<T, ControlError> {
    answer(call).await.map_err(|error| {
        tracing::warn!(%error, "the control plane");
        ControlError::Unavailable
    })
}

/// The same for what is asked every moment: whether ClickHouse answers is told elsewhere.
async fn quietly<T>(call: impl Future<Output = Result<T, clickhouse::error::Error>>) -> Result<T, ControlError> {
    answer(call).await.map_err(|error| {
        tracing::debug!(%error, "the control plane");
        ControlError::Unavailable
    })
}

async fn answer<T>(call: impl Future<Output = Result<T, clickhouse::error::Error>>) -> Result<T, StoreError> {
    tallyhouse_sql::within(TIMEOUT, call).await
}
