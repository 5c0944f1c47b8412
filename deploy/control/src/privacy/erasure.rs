//! Asks for an erasure, and tells how one stands.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tallyhouse_schema::limits::MAX_USER_CHARS;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::erasure::{self, Id};
use tallyhouse_sql::{AllShards, ShardsError};

use super::documents::{ERASURE, ErasureDocument, OnShard, Step, Subject};
use super::hash_key::InstallationKey;
use super::report;
use crate::kind::Kind;
use crate::records::{Document as _, Record};
use crate::store::{ControlError, ControlStore, New};
use crate::time;

/// A person, as a request names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    pub user_id: Option<String>,
    pub anonymous_id: Option<String>,
}

/// Why a person is not named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPerson {
    #[error("name a person by `userId`, `anonymousId` or both")]
    Nobody,
    #[error("`{field}` must be a text of 1 to {MAX_USER_CHARS} characters, or a whole number, as events have it")]
    Id { field: &'static str },
    #[error("unknown field `{0}`: an erasure takes `userId`, `anonymousId` and `keepSuppressed`")]
    Unknown(String),
    #[error("`keepSuppressed` must be true or false")]
    Flag,
    #[error("the body must be a JSON object such as {{\"userId\": \"u-1\"}}")]
    Shape,
}

/// What a body asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub person: Person,
    pub keep_suppressed: bool,
}

impl Request {
    /// Reads a body.
    pub fn read(body: &[u8]) -> Result<Self, BadPerson> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(body) else { return Err(BadPerson::Shape) };
        let mut request = Self::default();
        for (name, value) in fields {
            match name.as_str() {
                "userId" => request.person.user_id = id("userId", value)?,
                "anonymousId" => request.person.anonymous_id = id("anonymousId", value)?,
                "keepSuppressed" => request.keep_suppressed = value.as_bool().ok_or(BadPerson::Flag)?,
                _ => return Err(BadPerson::Unknown(name.chars().take(50).collect())),
            }
        }
        request.person = request.person.checked()?;
        Ok(request)
    }
}

fn id(field: &'static str, value: Value) -> Result<Option<String>, BadPerson> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(Some(number.to_string())),
        _ => Err(BadPerson::Id { field }),
    }
}

impl Person {
    /// With ids as events have them, which is without NUL.
    pub fn checked(self) -> Result<Self, BadPerson> {
        let id = |field: &'static str, id: Option<String>| {
            let Some(id) = id else { return Ok(None) };
            let id = id.replace('\0', "");
            let is_good = (1..=MAX_USER_CHARS).contains(&id.chars().count());
            if is_good { Ok(Some(id)) } else { Err(BadPerson::Id { field }) }
        };
        let Self { user_id, anonymous_id } = self;
        let person = Self { user_id: id("userId", user_id)?, anonymous_id: id("anonymousId", anonymous_id)? };
        if person.user_id.is_none() && person.anonymous_id.is_none() { Err(BadPerson::Nobody) } else { Ok(person) }
    }

    pub(super) fn ids(&self) -> Vec<Id> {
        let users = self.user_id.iter().cloned().map(Id::User);
        users.chain(self.anonymous_id.iter().cloned().map(Id::Anonymous)).collect()
    }
}

/// Why there is no erasure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErasureError {
    #[error(transparent)]
    Person(#[from] BadPerson),
    #[error("nobody can be erased here: set USER_HASH_KEY as the ingester has it")]
    NoKey,
    #[error("nobody can be erased where tables are replicated: their rollups cannot be rebuilt")]
    Replicated,
    #[error("an erasure of this person is under way that differs in `keepSuppressed`: try again when `{0}` is done")]
    Differs(String),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// What erasures are asked for with.
pub struct Erasures<'a> {
    pub store: &'a ControlStore,
    /// As the user that writes.
    pub writer: &'a Client,
    pub key: &'a InstallationKey,
    /// The random part of the project's key.
    pub key_part: Option<&'a [u8]>,
    pub project: &'a str,
    pub by: &'a str,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

/// An erasure and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    pub id: String,
    pub version: u32,
    pub document: ErasureDocument,
}

impl Erasure {
    pub(super) fn of(record: &Record) -> Option<Self> {
        let document = record.read::<ErasureDocument>().ok()?;
        Some(Self { id: record.name.to_string(), version: record.version, document })
    }

    /// As the API shows it.
    pub fn json(&self) -> Value {
        let Self { id, document, .. } = self;
        let at = time::text;
        let mut json = json!({
            "id": id,
            "state": document.state,
            "subjects": document.subjects,
            "keepSuppressed": document.keep_suppressed,
            "requestedAt": at(document.requested_ms),
            "erasedBefore": at(document.before_ms),
            "updatedAt": at(document.updated_ms),
            "answersAreRight": document.state >= Step::RemovingFiles,
            "counts": {
                "rawEvents": document.sum(OnShard::events),
                "days": document.days().len(),
                "daysNotRebuilt": document.older_days().len(),
                "deadLetters": document.sum(|shard| shard.dead_letters),
                "rollupPartitions": document.sum(|shard| shard.partitions),
                "filesLeft": document.sum(|shard| shard.files_left),
            },
        });
        if let Some(fields) = json.as_object_mut() {
            fields.extend(report::by_shard(document).map(|shards| ("shards".to_owned(), shards)));
            fields.extend(document.problem.iter().map(|problem| ("problem".to_owned(), json!(problem))));
            fields.extend(document.report.iter().map(|report| ("report".to_owned(), report.clone())));
        }
        json
    }
}

/// Whether a job that is there is what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meets {
    /// Like this it is: up to when it erases is still open.
    As(Box<ErasureDocument>),
    /// It is done, or has looked already what it deletes: what came since would stay.
    Not,
    Differently,
}

impl ErasureDocument {
    fn meets(&self, wanted: &Self) -> Meets {
        // What came back is deleted by whatever deletes the same person.
        let is_open = match wanted.is_again {
            true => matches!(self.state, Step::Suppressing | Step::Deleting) && self.before_ms >= wanted.before_ms,
            // Of one that was found by its hash, the ids are those of rows that came back alone.
            false => self.state == Step::Suppressing && !self.is_again,
        };
        if !is_open {
            return Meets::Not;
        }
        if !wanted.is_again && self.keep_suppressed != wanted.keep_suppressed {
            return Meets::Differently;
        }
        Meets::As(Box::new(Self { before_ms: self.before_ms.max(wanted.before_ms), ..self.clone() }))
    }
}

fn new_document(now_ms: i64, subjects: Vec<Subject>, keep_suppressed: bool) -> ErasureDocument {
    ErasureDocument {
        state: Step::Suppressing,
        subjects,
        keep_suppressed,
        is_again: false,
        requested_ms: now_ms,
        before_ms: now_ms,
        home: OnShard::default(),
        others: Vec::new(),
        confirmed: 0,
        unconfirmed: 0,
        silent: Vec::new(),
        held_back: 0,
        not_before_ms: 0,
        updated_ms: now_ms,
        problem: None,
        report: None,
    }
}

/// The name of the n-th erasure of a person.
fn name(subjects: &[Subject], number: u32) -> String {
    let hashes: Vec<_> = subjects.iter().map(|subject| subject.hash.as_str()).collect();
    format!("{ERASURE}{}-{number}", hashes.join("-"))
}

impl Erasures<'_> {
    /// Asks for an erasure. Whoever asks while one of the same person has not begun to delete gets that one, up to now.
    pub async fn request(&self, request: &Request) -> Result<Erasure, ErasureError> {
        let hasher = self.key.hasher(self.key_part);
        let Person { user_id, anonymous_id } = &request.person;
        let user = user_id.iter().map(|id| Subject::of_user(&hasher, self.project, id));
        let anonymous = anonymous_id.iter().map(|id| Subject::of_anonymous(&hasher, self.project, id));
        let subjects: BTreeSet<Subject> = user.chain(anonymous).collect();
        let document = new_document(self.now_ms, subjects.into_iter().collect(), request.keep_suppressed);
        self.create(document, &request.person.ids()).await
    }

    /// Asks for the erasure of what came back, of people known by their hashes.
    pub async fn again(&self, subjects: Vec<Subject>, before_ms: i64) -> Result<Erasure, ErasureError> {
        let document = ErasureDocument { is_again: true, before_ms, ..new_document(self.now_ms, subjects, false) };
        self.create(document, &[]).await
    }

    async fn create(&self, document: ErasureDocument, ids: &[Id]) -> Result<Erasure, ErasureError> {
        let mut number = 1;
        loop {
            let id = name(&document.subjects, number);
            match self.find(&id).await? {
                Some(known) => match known.document.meets(&document) {
                    Meets::As(as_it_is) if *as_it_is == known.document => return Ok(known),
                    Meets::As(raised) => match self.write(&id, known.version, &raised).await {
                        Ok(version) => return Ok(Erasure { id, version, document: *raised }),
                        // It went on, or somebody else raised it: it is looked at again.
                        Err(ControlError::Conflict { .. }) => {}
                        Err(error) => return Err(error.into()),
                    },
                    Meets::Not => number += 1,
                    Meets::Differently => return Err(ErasureError::Differs(known.id)),
                },
                None => {
                    // First: a job whose ids are nowhere would erase nothing. Twice does no harm.
                    erasure::name(self.writer, &id, ids).await.map_err(unavailable)?;
                    match self.write(&id, 0, &document).await {
                        Ok(version) => return Ok(Erasure { id, version, document }),
                        // Somebody else was first: theirs is found next.
                        Err(ControlError::Conflict { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }

    async fn write(&self, id: &str, replaces: u32, document: &ErasureDocument) -> Result<u32, ControlError> {
        let text = serde_json::to_string(document).unwrap_or_default();
        let (kind, project, by) = (ErasureDocument::KIND, self.project, self.by);
        self.store.create(&New { kind, project, name: id, replaces, document: &text, by }).await
    }

    /// An erasure of the project.
    pub async fn find(&self, id: &str) -> Result<Option<Erasure>, ErasureError> {
        if !id.starts_with(ERASURE) {
            return Ok(None);
        }
        let record = self.store.in_force(Kind::Job, self.project, id).await?;
        Ok(record.as_ref().and_then(Erasure::of))
    }
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> ErasureError {
    tracing::warn!(%error, "erasures");
    ControlError::Unavailable.into()
}

/// Refuses where the tables of any shard are replicated. One that is away does not keep a person from being suppressed: the runner asks again,
/// of all, before it deletes anything.
pub async fn refuse_replicated(shards: &AllShards) -> Result<(), ErasureError> {
    match shards.is_replicated().await {
        Ok(true) => Err(ErasureError::Replicated),
        Ok(false) | Err(ShardsError::Away { number: 2.., .. }) => Ok(()),
        Err(error) => Err(unavailable(error)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One that was just asked for.
    pub(in crate::privacy) fn document() -> ErasureDocument {
        new_document(100, Vec::new(), false)
    }

    #[test]
    fn a_job_is_given_again_only_while_what_came_since_is_erased_too() {
        let asked = ErasureDocument { before_ms: 200, ..document() };
        let raised = ErasureDocument { before_ms: 200, ..document() };
        assert_eq!(document().meets(&asked), Meets::As(Box::new(raised.clone())));
        assert_eq!(raised.meets(&document()), Meets::As(Box::new(raised.clone())), "never back");
        let keeping = ErasureDocument { keep_suppressed: true, ..asked.clone() };
        assert_eq!(document().meets(&keeping), Meets::Differently);
        let again = ErasureDocument { is_again: true, ..document() };
        assert_eq!(again.meets(&asked), Meets::Not, "it finds rows that came back alone");
        assert_eq!(document().meets(&again), Meets::As(Box::new(document())));
        for state in [Step::Deleting, Step::Rebuilding, Step::RemovingFiles, Step::Done] {
            let known = ErasureDocument { state, ..document() };
            assert_eq!(known.meets(&asked), Meets::Not, "{state:?}");
            let deletes = state == Step::Deleting;
            assert_eq!(known.meets(&again) == Meets::As(Box::new(known.clone())), deletes, "{state:?}");
        }
    }

    #[test]
    fn a_person_is_named_as_events_name_them() {
        let read = |body: &str| Request::read(body.as_bytes());
        assert_eq!(read(r#"{"userId":"ann"}"#).unwrap().person.ids(), [Id::User("ann".into())]);
        assert_eq!(read(r#"{"userId":42,"anonymousId":null}"#).unwrap().person.ids(), [Id::User("42".into())]);
        let controls = read(r#"{"userId":"a\tb\nc\u0000"}"#).unwrap();
        assert_eq!(controls.person.ids(), [Id::User("a\tb\nc".into())], "events lose NUL alone");
        let both = read(r#"{"userId":"a","anonymousId":"c","keepSuppressed":true}"#).unwrap();
        assert_eq!((both.person.ids().len(), both.keep_suppressed), (2, true));
        let long = format!(r#"{{"userId":"{}"}}"#, "x".repeat(MAX_USER_CHARS + 1));
        for (body, error) in [
            ("", BadPerson::Shape),
            ("[]", BadPerson::Shape),
            ("{}", BadPerson::Nobody),
            (r#"{"userId":""}"#, BadPerson::Id { field: "userId" }),
            (r#"{"userId":1.5}"#, BadPerson::Id { field: "userId" }),
            (r#"{"anonymousId":["a"]}"#, BadPerson::Id { field: "anonymousId" }),
            (r#"{"anonymousId":"\u0000"}"#, BadPerson::Id { field: "anonymousId" }),
            (&long, BadPerson::Id { field: "userId" }),
            (r#"{"userid":"a"}"#, BadPerson::Unknown("userid".into())),
            (r#"{"userId":"a","keepSuppressed":1}"#, BadPerson::Flag),
        ] {
            assert_eq!(read(body), Err(error), "{body}");
        }
    }
}
