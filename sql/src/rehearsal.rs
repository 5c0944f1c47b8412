//! Rehearses an insert: tests whether ClickHouse would take rows, without writing any.
//!
//! A rehearsal is a copy of `events_in`, of every view behind it and of the tables that those write to, made from what ClickHouse
//! says of them at that moment: so a constraint or a view that somebody added is in it too. All copied tables have the engine
//! `Null`, which checks columns and constraints and keeps nothing. An insert into the copy fails where a real one would, and
//! changes nothing wherever it fails.
//!
//! A row costs as much in a view as in `events`, so once it is known which view of `events_in` refuses, rows are sent through a second
//! copy of that one only ([`Rehearsal::narrow`]).
//!
//! What it cannot see: what only a table that keeps its rows can refuse (parts, partitions, disks). Views that read a table of
//! another database are copied when this user may do that; otherwise there is no rehearsal, and the caller goes on waiting.
//!
//! A killed process leaves its copies behind; [`sweep`] drops them.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use clickhouse::{Client, Row};
use serde::Deserialize;

use crate::deadline::within;
use crate::error::StoreError;
use crate::insert::insert_again;

/// What copies' names begin with.
const PREFIX: &str = "rehearsal_";

/// How long one statement of a rehearsal may take.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(30);

/// Tables and views that are copied, at most.
const MAX_COPIES: usize = 256;

/// Copies; to be dropped with [`Rehearsal::end`].
pub struct Rehearsal {
    client: Client,
    entry: String,
    /// In the order in which they were made.
    made: Vec<String>,
    originals: Vec<Original>,
    views: Vec<Narrowable>,
}

/// What a copy is a copy of.
#[derive(Debug)]
struct Original {
    copy: String,
    name: String,
    /// Behind which view of `events_in`.
    view: ViewIndex,
}

/// A view of `events_in`, and the copy that it writes to.
#[derive(Debug)]
struct Narrowable {
    name: String,
    select: String,
    target_copy: String,
}

/// Which view of `events_in`.
pub type ViewIndex = usize;

/// Where rows of a rehearsal go.
#[derive(Debug, Clone)]
pub struct Entry(String);

/// Rows were not taken.
#[derive(Debug)]
pub struct Refusal {
    /// What a real insert would meet.
    pub error: StoreError,
    /// The view of `events_in` behind which they were refused, as far as ClickHouse says.
    pub view: Option<ViewIndex>,
}

/// A view behind a table.
#[derive(Debug, Row, Deserialize)]
struct View {
    database: String,
    name: String,
    uuid: String,
    select: String,
    create: String,
}

impl Rehearsal {
    /// Copies what stands behind `events_in` now.
    pub async fn begin(client: &Client) -> Result<Self, StoreError> {
        let id = RandomState::new().hash_one(std::process::id());
        let copy = |number: usize| format!("tallyhouse.{PREFIX}{id:016x}_{number}");
        let mut this =
            Self { client: client.clone(), entry: copy(0), made: Vec::new(), originals: Vec::new(), views: Vec::new() };
        let built = this.copy_all(copy).await;
        match built {
            Ok(()) => Ok(this),
            Err(error) => {
                this.end().await;
                Err(error)
            }
        }
    }

    async fn copy_all(&mut self, copy: impl Fn(usize) -> String) -> Result<(), StoreError> {
        let entry = self.entry.clone();
        self.copy_table("tallyhouse.events_in", &entry).await?;
        let mut sources = vec![(Name::new("tallyhouse", "events_in"), entry, None)];
        while let Some((source, source_copy, behind)) = sources.pop() {
            for view in self.views_of(&source).await? {
                let number = self.made.len();
                if number > MAX_COPIES {
                    return Err(StoreError::Unintelligible(format!(
                        "more than {MAX_COPIES} views stand behind events_in"
                    )));
                }
                let (target, target_copy, view_copy) = (target_of(&view), copy(number), copy(number + 1));
                self.copy_table(&target.quoted(), &target_copy).await?;
                let select = renamed(&view.select, &source, &source_copy);
                let create = format!("CREATE MATERIALIZED VIEW {view_copy} TO {target_copy} AS {select}");
                self.make(view_copy.clone(), &create).await?;
                let view_name = Name::new(&view.database, &view.name).written();
                let index = behind.unwrap_or(self.views.len());
                self.originals.push(Original { copy: view_copy, name: view_name.clone(), view: index });
                self.originals.push(Original { copy: target_copy.clone(), name: target.written(), view: index });
                if behind.is_none() {
                    let target_copy = target_copy.clone();
                    self.views.push(Narrowable { name: view_name, select: view.select, target_copy });
                }
                sources.push((target, target_copy, Some(index)));
            }
        }
        Ok(())
    }

    async fn copy_table(&mut self, of: &str, name: &str) -> Result<(), StoreError> {
        self.make(name.to_owned(), &format!("CREATE TABLE {name} AS {of} ENGINE = Null")).await
    }

    async fn make(&mut self, name: String, create: &str) -> Result<(), StoreError> {
        // Before: an answer that does not come does not mean that it is not there.
        self.made.push(name);
        within(STATEMENT_DEADLINE, self.client.query_raw(create).execute()).await
    }

    async fn views_of(&self, source: &Name) -> Result<Vec<View>, StoreError> {
        let views = "SELECT database, name, toString(uuid) AS uuid, as_select AS select, create_table_query AS create \
             FROM system.tables WHERE engine = 'MaterializedView' AND (database, name) IN (\
             SELECT arrayJoin(arrayZip(dependencies_database, dependencies_table)) FROM system.tables \
             WHERE database = {database:String} AND name = {name:String}) ORDER BY database, name";
        let query = self.client.query(views).param("database", &source.database).param("name", &source.name);
        within(STATEMENT_DEADLINE, query.fetch_all::<View>()).await
    }

    /// Through all copies.
    pub fn everything(&self) -> Entry {
        Entry(self.entry.clone())
    }

    /// Through one view of `events_in` only.
    pub async fn narrow(&mut self, view: ViewIndex) -> Result<Entry, StoreError> {
        let Some(Narrowable { name, select, target_copy }) = self.views.get(view) else {
            return Ok(self.everything());
        };
        let source = Name::new("tallyhouse", "events_in");
        let (entry, view_copy) =
            (format!("{}_{}", self.entry, self.made.len()), format!("{}_{}", self.entry, self.made.len() + 1));
        let select = renamed(select, &source, &entry);
        let create = format!("CREATE MATERIALIZED VIEW {view_copy} TO {target_copy} AS {select}");
        let original = Original { copy: view_copy.clone(), name: name.clone(), view };
        // Not of `events_in`, which may have a closed gate by now (`rollups::gate`): nothing that goes through would be taken.
        let everything = self.entry.clone();
        self.copy_table(&everything, &entry).await?;
        self.make(view_copy, &create).await?;
        self.originals.push(original);
        Ok(Entry(entry))
    }

    /// Sends a block through copies.
    pub async fn send(&self, entry: &Entry, chunks: &[Bytes], deadline: Duration) -> Result<(), Refusal> {
        let refused = insert_again(&self.client, &entry.0, chunks, deadline).await;
        refused.map_err(|error| match error {
            StoreError::Refused { code, message } => {
                let view = self.longest_first().find(|original| message.contains(&original.copy));
                let (view, message) = (view.map(|original| original.view), self.originally(message));
                Refusal { error: StoreError::Refused { code, message }, view }
            }
            error => Refusal { error, view: None },
        })
    }

    /// The longest copies' names come last, and hide no shorter one.
    fn longest_first(&self) -> impl Iterator<Item = &Original> {
        self.originals.iter().rev()
    }

    /// A message with the tables' own names.
    fn originally(&self, message: String) -> String {
        self.longest_first().fold(message, |message, original| message.replace(&original.copy, &original.name))
    }

    /// Drops the copies. What cannot be dropped is left to [`sweep`].
    pub async fn end(self) {
        for name in self.made.iter().rev() {
            if let Err(error) = within(
                STATEMENT_DEADLINE,
                self.client.query_raw(&format!("DROP TABLE IF EXISTS {name} SYNC")).execute(),
            )
            .await
            {
                tracing::warn!(%error, name, "a copy of a table could not be dropped; it is dropped later");
            }
        }
    }
}

/// Drops copies that are older than an hour: their process was killed, or could not reach ClickHouse any more.
pub async fn sweep(client: &Client) -> Result<(), StoreError> {
    let old = format!(
        "SELECT name FROM system.tables WHERE database = 'tallyhouse' AND startsWith(name, '{PREFIX}') \
         AND metadata_modification_time < now() - INTERVAL 1 HOUR ORDER BY engine = 'MaterializedView' DESC, name DESC"
    );
    for name in within(STATEMENT_DEADLINE, client.query_raw(&old).fetch_all::<String>()).await? {
        within(
            STATEMENT_DEADLINE,
            client.query_raw(&format!("DROP TABLE IF EXISTS tallyhouse.`{name}` SYNC")).execute(),
        )
        .await?;
    }
    Ok(())
}

/// A table's name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    database: String,
    name: String,
}

impl Name {
    fn new(database: &str, name: &str) -> Self {
        Self { database: database.to_owned(), name: name.to_owned() }
    }

    /// As ClickHouse takes it whatever is in it.
    fn quoted(&self) -> String {
        let quote = |part: &str| format!("`{}`", part.replace('\\', "\\\\").replace('`', "\\`"));
        format!("{}.{}", quote(&self.database), quote(&self.name))
    }

    /// As ClickHouse writes it: quoted where it must be.
    fn written(&self) -> String {
        let is_plain = |part: &str| {
            part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !part.starts_with(|c: char| c.is_ascii_digit())
        };
        let write = |part: &str| match is_plain(part) {
            true => part.to_owned(),
            false => format!("`{}`", part.replace('\\', "\\\\").replace('`', "\\`")),
        };
        format!("{}.{}", write(&self.database), write(&self.name))
    }
}

/// The table that a view writes to: the one that it names, or its own.
fn target_of(view: &View) -> Name {
    let own = Name::new(&view.database, &format!(".inner_id.{}", view.uuid));
    let written = Name::new(&view.database, &view.name).written();
    let Some((_, rest)) = view.create.split_once(&written) else { return own };
    let Some(rest) = rest.strip_prefix(" TO ") else { return own };
    match (identifier(rest), view.database.clone()) {
        (Some((database, rest)), _) if rest.starts_with('.') => {
            identifier(rest.trim_start_matches('.')).map_or(own, |(name, _)| Name { database, name })
        }
        (Some((name, _)), database) => Name { database, name },
        (None, _) => own,
    }
}

/// The identifier that a text begins with, and what follows.
fn identifier(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('`') {
        let end = quoted.find('`')?;
        return Some((quoted.get(..end)?.to_owned(), quoted.get(end + 1..)?));
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    (end > 0).then(|| (text.get(..end).unwrap_or_default().to_owned(), text.get(end..).unwrap_or_default()))
}

/// A view's SELECT with another source. Of `a.events` in `a.events_in` nothing is renamed.
fn renamed(select: &str, source: &Name, copy: &str) -> String {
    let written = source.written();
    let mut out = String::with_capacity(select.len());
    let mut rest = select;
    while let Some((before, after)) = rest.split_once(written.as_str()) {
        let is_inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '`');
        let is_whole =
            !before.ends_with(is_inside) && !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        out.push_str(before);
        out.push_str(if is_whole { copy } else { &written });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(name: &str, create: &str) -> View {
        let [database, uuid, select] = ["d", "u-1", ""].map(str::to_owned);
        View { database, name: name.to_owned(), uuid, select, create: create.to_owned() }
    }

    #[test]
    fn a_view_writes_to_what_it_names_or_to_its_own_table() {
        let target = |name, create| target_of(&view(name, create));
        assert_eq!(target("v", "CREATE MATERIALIZED VIEW d.v TO d.t (`a` String) AS SELECT 1"), Name::new("d", "t"));
        assert_eq!(target("v-1", "CREATE MATERIALIZED VIEW d.`v-1` TO e.`t-1` AS SELECT 1"), Name::new("e", "t-1"));
        assert_eq!(
            target("v", "CREATE MATERIALIZED VIEW d.v (`a` UInt8) ENGINE = Null AS SELECT 1"),
            Name::new("d", ".inner_id.u-1")
        );
    }

    #[test]
    fn only_whole_names_are_renamed() {
        let select = "SELECT 1 FROM tallyhouse.events_in JOIN tallyhouse.events ON 1 WHERE x IN (tallyhouse.events)";
        assert_eq!(
            renamed(select, &Name::new("tallyhouse", "events"), "c"),
            "SELECT 1 FROM tallyhouse.events_in JOIN c ON 1 WHERE x IN (c)"
        );
        assert_eq!(renamed("FROM d.`a-b`", &Name::new("d", "a-b"), "c"), "FROM c");
    }
}
