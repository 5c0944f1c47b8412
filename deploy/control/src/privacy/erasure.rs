//! Asks for an erasure, and tells how one stands.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tallyhouse_schema::limits::MAX_USER_CHARS;
use tallyhouse_sql::StoreError;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::erasure::{self, Id};

use super::documents::{ERASURE, ErasureDocument, Step, Subject};
use super::hash_key::InstallationKey;
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
        request.person.check()?;
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
    /// Whether ids are such as events have.
    pub fn check(&self) -> Result<(), BadPerson> {
        let fields = [("userId", &self.user_id), ("anonymousId", &self.anonymous_id)];
        for (field, id) in fields {
            let is_good =
                |id: &String| (1..=MAX_USER_CHARS).contains(&id.chars().count()) && !id.chars().any(char::is_control);
            if !id.as_ref().is_none_or(is_good) {
                return Err(BadPerson::Id { field });
            }
        }
        if fields.iter().all(|(_, id)| id.is_none()) { Err(BadPerson::Nobody) } else { Ok(()) }
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
    #[error("rollups of a cluster cannot be rebuilt, so nobody can be erased there")]
    Cluster,
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
                "rawEvents": document.events(),
                "days": document.days.len(),
                "daysNotRebuilt": document.older_days.len(),
                "deadLetters": document.dead_letters,
                "rollupPartitions": document.partitions,
                "filesLeft": document.files_left,
            },
        });
        if let Some(fields) = json.as_object_mut() {
            fields.extend(document.problem.iter().map(|problem| ("problem".to_owned(), json!(problem))));
            fields.extend(document.report.iter().map(|report| ("report".to_owned(), report.clone())));
        }
        json
    }
}

/// The name of the n-th erasure of a person.
fn name(subjects: &[Subject], number: u32) -> String {
    let hashes: Vec<_> = subjects.iter().map(|subject| subject.hash.as_str()).collect();
    format!("{ERASURE}{}-{number}", hashes.join("-"))
}

impl Erasures<'_> {
    /// Asks for an erasure. Whoever asks while one of the same person is under way gets that one.
    pub async fn request(&self, request: &Request) -> Result<Erasure, ErasureError> {
        let hasher = self.key.hasher(self.key_part);
        let Person { user_id, anonymous_id } = &request.person;
        let user = user_id.iter().map(|id| Subject::of_user(&hasher, self.project, id));
        let anonymous = anonymous_id.iter().map(|id| Subject::of_anonymous(&hasher, self.project, id));
        let subjects: BTreeSet<Subject> = user.chain(anonymous).collect();
        let document = self.new_document(subjects.into_iter().collect(), request.keep_suppressed);
        self.create(document, &request.person.ids()).await
    }

    /// Asks for the erasure of what came back, of people known by their hashes.
    pub async fn again(&self, subjects: Vec<Subject>, before_ms: i64) -> Result<Erasure, ErasureError> {
        let document = ErasureDocument { is_again: true, before_ms, ..self.new_document(subjects, false) };
        self.create(document, &[]).await
    }

    fn new_document(&self, subjects: Vec<Subject>, keep_suppressed: bool) -> ErasureDocument {
        ErasureDocument {
            state: Step::Suppressing,
            subjects,
            keep_suppressed,
            is_again: false,
            requested_ms: self.now_ms,
            before_ms: self.now_ms,
            days: Vec::new(),
            older_days: Vec::new(),
            dead_letters: 0,
            confirmed: 0,
            unconfirmed: 0,
            partitions: 0,
            replaced_at: 0,
            files_left: 0,
            updated_ms: self.now_ms,
            problem: None,
            report: None,
        }
    }

    async fn create(&self, document: ErasureDocument, ids: &[Id]) -> Result<Erasure, ErasureError> {
        let mut number = 1;
        loop {
            let id = name(&document.subjects, number);
            match self.find(&id).await? {
                Some(known) if known.document.state == Step::Done => number += 1,
                Some(known) if known.document.keep_suppressed != document.keep_suppressed && !document.is_again => {
                    return Err(ErasureError::Differs(known.id));
                }
                Some(known) => return Ok(known),
                None => {
                    // First: a job whose ids are nowhere would erase nothing. Twice does no harm.
                    erasure::name(self.writer, &id, ids).await.map_err(unavailable)?;
                    let text = serde_json::to_string(&document).unwrap_or_default();
                    let new = New {
                        kind: ErasureDocument::KIND,
                        project: self.project,
                        name: &id,
                        replaces: 0,
                        document: &text,
                        by: self.by,
                    };
                    match self.store.create(&new).await {
                        Ok(version) => return Ok(Erasure { id, version, document }),
                        // Somebody else was first: theirs is found next.
                        Err(ControlError::Conflict { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
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

#[allow(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
pub(super) fn unavailable(error: StoreError) -> ErasureError {
    tracing::warn!(%error, "erasures");
    ControlError::Unavailable.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_named_as_events_name_them() {
        let read = |body: &str| Request::read(body.as_bytes());
        assert_eq!(read(r#"{"userId":"ann"}"#).unwrap().person.ids(), [Id::User("ann".into())]);
        assert_eq!(read(r#"{"userId":42,"anonymousId":null}"#).unwrap().person.ids(), [Id::User("42".into())]);
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
            (r#"{"anonymousId":"a\u0000"}"#, BadPerson::Id { field: "anonymousId" }),
            (&long, BadPerson::Id { field: "userId" }),
            (r#"{"userid":"a"}"#, BadPerson::Unknown("userid".into())),
            (r#"{"userId":"a","keepSuppressed":1}"#, BadPerson::Flag),
        ] {
            assert_eq!(read(body), Err(error), "{body}");
        }
    }
}
