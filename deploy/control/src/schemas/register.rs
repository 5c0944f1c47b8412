//! Registering a declaration, and taking one away.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tallyhouse_schema::catalogue::{DeclarationError, EventType, EventTypeDeclaration};
use tallyhouse_schema::dimension::DEFAULT_SETS;
use tallyhouse_schema::json_schema::compatibility::{Break, Comparison};

use super::live::{Count, InForce, LiveCatalogue, event_type};
use crate::audit;
use crate::kind::Kind;
use crate::records::SchemaDocument;
use crate::store::{ControlError, New};

/// Declarations of one project at most. Those that were taken away do not count.
const MOST_PER_PROJECT: usize = 1_000;

/// Names that one project may ever declare: of each a record stays, also of those that were taken away.
const MOST_NAMES: usize = 10_000;

/// Whose declaration it is, and who registers it.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Empty: for all projects without one of their own.
    pub project: &'a str,
    /// The id of a key, a user, or the command line.
    pub by: &'a str,
}

/// A declaration that can be registered.
#[derive(Debug, Clone)]
pub struct Proposal {
    document: SchemaDocument,
    /// What its writer should know.
    pub notes: Vec<Break>,
}

/// A declaration that is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub version: u32,
    /// It was in force already, and nothing was written.
    pub is_unchanged: bool,
    pub notes: Vec<Break>,
}

/// Why a declaration was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// It cannot be used.
    #[error(transparent)]
    Declaration(#[from] DeclarationError),
    /// It breaks what it promises.
    #[error("{}", incompatible(.0))]
    Incompatible(Vec<Break>),
    /// The project has as many as it may.
    #[error("the project has {MOST_PER_PROJECT} declarations, which is the most; take one away that is not needed")]
    Full,
    /// It has had as many names as it may.
    #[error(
        "the project has declared {MOST_NAMES} names of event types, which is the most, those that were taken away among them; \
         use one of them again, and send what varies as a property"
    )]
    FullOfNames,
    /// Nothing of that name is registered there.
    #[error("`{0}` is not registered here, so there is nothing to take away")]
    NotRegistered(String),
    #[error(transparent)]
    Control(#[from] ControlError),
}

fn incompatible(breaks: &[Break]) -> String {
    let first = breaks.first().map(ToString::to_string).unwrap_or_default();
    let more = match breaks.len() {
        0 | 1 => String::new(),
        all => format!(" (and {} more)", all - 1),
    };
    format!(
        "the schema does not go with the version in force: {first}{more}; change it, or send `\"compatibility\": \"none\"` if senders \
         are prepared"
    )
}

/// What is in force before a change.
struct Before {
    event_type: EventType,
    declaration: Option<EventTypeDeclaration>,
}

/// Compares a declaration with what is in force. Writes nothing.
pub async fn propose(
    catalogue: &LiveCatalogue,
    project: &str,
    declaration: &EventTypeDeclaration,
) -> Result<Proposal, SchemaError> {
    let in_force = catalogue.declaration(project, &declaration.event_type);
    let (declaration, now_ms) = (declaration.clone(), catalogue.control().now_ms());
    // A schema may take a while to compile.
    let compared = tokio::task::spawn_blocking(move || proposal(&before(in_force)?, &declaration, now_ms)).await;
    compared.unwrap_or_else(|error| {
        tracing::error!(%error, project, "a declaration could not be compared");
        Err(ControlError::Unavailable.into())
    })
}

fn before(in_force: Option<InForce>) -> Result<Before, SchemaError> {
    let Some(InForce { since, declaration, .. }) = in_force else {
        return Ok(Before { event_type: EventType::default(), declaration: None });
    };
    let document = SchemaDocument { declaration: Some(declaration), since };
    // One that cannot be read any more stands in nobody's way.
    let known = event_type(&document, 0).ok().flatten();
    let event_type = known.map_or_else(EventType::default, |known| (*known).clone());
    Ok(Before { event_type, declaration: document.declaration })
}

fn proposal(before: &Before, declaration: &EventTypeDeclaration, now_ms: i64) -> Result<Proposal, SchemaError> {
    let declared = EventType::declared(declaration)?;
    let old = before.event_type.schema.as_deref().filter(|_| before.declaration.is_some());
    // Without a schema in force there is no promise yet.
    let Comparison { breaks, mut notes } = match old {
        None => Comparison::default(),
        old => declaration.compatibility.compare(old, declared.schema.as_deref()),
    };
    if !breaks.is_empty() {
        return Err(SchemaError::Incompatible(breaks));
    }
    let mut since = BTreeMap::new();
    for set in declared.sets.iter().skip(DEFAULT_SETS.len()) {
        if !before.event_type.has(set) {
            since.insert(set.key().to_owned(), now_ms);
            let problem = format!(
                "`{set}` is counted from now on; `tallyhouse rollups backfill --dimension {}` counts earlier events",
                set.names().first().map_or("", String::as_str)
            );
            notes.push(Break { pointer: "/dimensions".to_owned(), problem });
        } else if let Some(began) = before.event_type.since.get(set.key()) {
            since.insert(set.key().to_owned(), *began);
        }
    }
    for set in before.event_type.sets.iter().filter(|set| !declared.has(set)) {
        let problem = format!("`{set}` is not counted from now on, and cannot be asked for");
        notes.push(Break { pointer: "/dimensions".to_owned(), problem });
    }
    if before.declaration.is_some() && before.event_type.value != declared.value {
        let problem =
            "the value is taken from another property from now on; events that are stored keep theirs".to_owned();
        notes.push(Break { pointer: "/value".to_owned(), problem });
    }
    Ok(Proposal { document: SchemaDocument { declaration: Some(declaration.clone()), since }, notes })
}

/// Registers the next version of a declaration. `replaces` is the version that its writer knows, 0 for none of that level.
pub async fn register(
    catalogue: &LiveCatalogue,
    who: Who<'_>,
    declaration: &EventTypeDeclaration,
    replaces: u32,
) -> Result<Registered, SchemaError> {
    // By what ClickHouse has now: another process may have registered a moment ago.
    catalogue.control().refresh().await?;
    catalogue.catch_up().await;
    let snapshot = catalogue.control().snapshot();
    let name = declaration.event_type.as_str();
    let own = snapshot.record(Kind::Schema, who.project, name);
    let in_force = own.map_or(0, |record| record.version);
    // Told before anything else: what it is compared with would be another version.
    if in_force != replaces {
        return Err(ControlError::Conflict { in_force }.into());
    }
    let known = own.map(|record| record.read::<SchemaDocument>().ok().and_then(|document| document.declaration));
    has_room(catalogue.count(who.project), known.as_ref().map(Option::is_some))?;
    let Proposal { document, notes } = propose(catalogue, who.project, declaration).await?;
    if known.is_some_and(|known| known == document.declaration) {
        return Ok(Registered { version: in_force, is_unchanged: true, notes: Vec::new() });
    }
    let version = write(catalogue, who, name, replaces, &document).await?;
    Ok(Registered { version, is_unchanged: false, notes })
}

/// `known`: whether there is a record of the name, and whether it declares anything.
const fn has_room(count: Count, known: Option<bool>) -> Result<(), SchemaError> {
    match known {
        Some(true) => Ok(()),
        None if count.names >= MOST_NAMES => Err(SchemaError::FullOfNames),
        Some(false) | None if count.declared >= MOST_PER_PROJECT => Err(SchemaError::Full),
        Some(false) | None => Ok(()),
    }
}

/// Takes a declaration away: the type has none for this project, or for this installation, from the next version on.
pub async fn delete(catalogue: &LiveCatalogue, who: Who<'_>, name: &str, replaces: u32) -> Result<u32, SchemaError> {
    catalogue.control().refresh().await?;
    let is_declared = catalogue.declaration(who.project, name).is_some();
    let record = catalogue.control().snapshot().record(Kind::Schema, who.project, name).cloned();
    let in_force = record.as_ref().map_or(0, |record| record.version);
    if !is_declared {
        return Err(SchemaError::NotRegistered(name.to_owned()));
    }
    if in_force != replaces {
        return Err(ControlError::Conflict { in_force }.into());
    }
    let document = SchemaDocument { declaration: None, since: BTreeMap::new() };
    write(catalogue, who, name, replaces, &document).await
}

/// How long after a set was declared, in milliseconds, every process counts it: a backfill that begins then misses nothing.
const KNOWN_EVERYWHERE: i64 = 60_000;

/// Notes that all stored events of a type were counted under sets by a backfill that began at `began_ms`: they are complete from the
/// first event on. Returns the keys of those that were not.
pub async fn counted(
    catalogue: &LiveCatalogue,
    who: Who<'_>,
    name: &str,
    is_counted: impl Fn(&str) -> bool,
    began_ms: i64,
) -> Result<Vec<String>, SchemaError> {
    let Some(record) = catalogue.control().snapshot().record(Kind::Schema, who.project, name).cloned() else {
        return Ok(Vec::new());
    };
    let Ok(mut document) = record.read::<SchemaDocument>() else { return Ok(Vec::new()) };
    let ended = ended(&mut document.since, is_counted, began_ms);
    if !ended.is_empty() {
        write(catalogue, who, name, record.version, &document).await?;
    }
    Ok(ended)
}

/// Takes the sets out that are counted from the first event on.
fn ended(since: &mut BTreeMap<String, i64>, is_counted: impl Fn(&str) -> bool, began_ms: i64) -> Vec<String> {
    let is_ended = |key: &str, at: i64| is_counted(key) && at.saturating_add(KNOWN_EVERYWHERE) <= began_ms;
    since.extract_if(.., |key, at| is_ended(key, *at)).map(|(key, _)| key).collect()
}

async fn write(
    catalogue: &LiveCatalogue,
    who: Who<'_>,
    name: &str,
    replaces: u32,
    document: &SchemaDocument,
) -> Result<u32, SchemaError> {
    let control = catalogue.control();
    let store = control.store().ok_or(ControlError::NotConfigured)?;
    let text = serde_json::to_string(document).map_err(|error| DeclarationError::Malformed(error.to_string()))?;
    let new = New { kind: Kind::Schema, project: who.project, name, replaces, document: &text, by: who.by };
    let created = store.create(&new).await;
    let action = if document.declaration.is_some() { "schemas.register" } else { "schemas.delete" };
    let (result, details): (&str, Value) = match &created {
        Ok(version) => ("done", json!({ "version": version })),
        Err(ControlError::Conflict { in_force }) => ("conflict", json!({ "inForce": in_force })),
        Err(_) => ("failed", Value::Null),
    };
    audit::write(store, &audit::Done { project: who.project, actor: who.by, action, object: name, result, details })
        .await;
    let version = created?;
    // The caller's next event or question may be about it. That it was written is not in doubt.
    if let Err(error) = control.refresh().await {
        tracing::warn!(%error, project = who.project, name, version, "the declaration is written, and not known here yet");
    }
    catalogue.catch_up().await;
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declaration(text: &str) -> EventTypeDeclaration {
        EventTypeDeclaration::read(text).unwrap()
    }

    fn in_force(text: &str, since: &[(&str, i64)]) -> Before {
        let since = since.iter().map(|(key, at)| ((*key).to_owned(), *at)).collect();
        before(Some(InForce { version: 1, level: super::super::Level::Project, since, declaration: declaration(text) }))
            .unwrap()
    }

    #[test]
    fn a_set_of_dimensions_starts_when_it_is_declared_and_goes_on_while_it_is() {
        let before = in_force(
            r#"{"eventType":"a","dimensions":["always","lately","gone"],"combinations":[["always","lately"]]}"#,
            &[("lately", 5), ("always,lately", 6)],
        );
        let next = declaration(
            r#"{"eventType":"a","dimensions":["new","lately","always"],"combinations":[["lately","always"]]}"#,
        );
        let proposal = proposal(&before, &next, 9).unwrap();
        let since: Vec<_> = proposal.document.since.iter().map(|(key, at)| (key.as_str(), *at)).collect();
        assert_eq!(since, [("always,lately", 6), ("lately", 5), ("new", 9)]);
        let notes: Vec<_> =
            proposal.notes.iter().map(|note| note.problem.split(' ').take(4).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(notes, ["`new` is counted from", "`gone` is not counted"]);
    }

    #[test]
    fn a_set_that_was_back_filled_has_no_beginning() {
        let mut since = BTreeMap::from([("a".to_owned(), 1_000), ("b".to_owned(), 1_000), ("c".to_owned(), 5_000)]);
        assert_eq!(ended(&mut since, |key| key != "b", 61_000), ["a"], "`c` may not be known everywhere yet");
        assert_eq!(since.into_keys().collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn what_was_taken_away_takes_no_room_but_its_name() {
        let full = Count { names: 1_200, declared: 1_000 };
        assert_eq!(has_room(full, Some(true)), Ok(()), "another version of one that is declared");
        assert_eq!(has_room(full, Some(false)), Err(SchemaError::Full));
        assert_eq!(has_room(full, None), Err(SchemaError::Full));
        assert_eq!(has_room(Count { declared: 999, ..full }, None), Ok(()));
        let used = Count { names: 10_000, declared: 3 };
        assert_eq!((has_room(used, None), has_room(used, Some(false))), (Err(SchemaError::FullOfNames), Ok(())));
    }

    #[test]
    fn a_schema_has_to_keep_its_promise() {
        let before = in_force(r#"{"eventType":"a","schema":{"properties":{"n":{"type":"number"}}}}"#, &[]);
        let next = |compatibility: &str| {
            declaration(&format!(
                r#"{{"eventType":"a","compatibility":"{compatibility}","schema":{{"properties":{{"n":{{"type":"integer"}}}}}}}}"#
            ))
        };
        let refused = proposal(&before, &next("backward"), 0).unwrap_err();
        assert!(
            matches!(&refused, SchemaError::Incompatible(breaks) if breaks[0].pointer == "/schema/properties/n/type")
        );
        assert!(refused.to_string().contains("compatibility"));
        assert!(proposal(&before, &next("forward"), 0).is_ok() && proposal(&before, &next("none"), 0).is_ok());
        let first = Before { event_type: EventType::default(), declaration: None };
        assert!(proposal(&first, &next("full"), 0).is_ok(), "there was no promise");
    }
}
