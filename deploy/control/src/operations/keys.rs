//! Keys: create, list, rotate, revoke. A key's text is in the answer to its creation or rotation, and nowhere else.

use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

use tallyhouse_service::access::Scope;
use tallyhouse_service::cors::Origin;
use ulid::Ulid;

use super::{Actor, Audited, OperationError, Operations};
use crate::key_text;
use crate::key_use;
use crate::kind::Kind;
use crate::records::key::KeySecret;
use crate::records::{KeyDocument, Record};
use crate::store::{ControlError, New};
use crate::time;

/// Keys of a project that are not revoked, at most.
const MAX_KEYS: usize = 1_000;

/// With those that are: each is held by every process, so that it stays revoked.
const MAX_KEYS_EVER: usize = 10_000;

/// Origins of a key at most.
const MAX_ORIGINS: usize = 100;

/// The longest note.
const MAX_NOTE: usize = 200;

/// How long a rotated key is good under its old text, unless it is said.
pub const OVERLAP_MS: i64 = 24 * 3_600_000;

/// The longest.
const MAX_OVERLAP_MS: i64 = 90 * 24 * 3_600_000;

/// Texts of a key at most: a rotation in the middle of another one.
const MAX_SECRETS: usize = 4;

/// A key that is to be.
#[derive(Debug, Clone, Default)]
pub struct NewKey {
    /// `None`: the one that the actor manages, or of an operator's key none.
    pub project: Option<String>,
    /// An operator's, of no project.
    pub operator: bool,
    pub scopes: Vec<Scope>,
    pub origins: Vec<String>,
    /// Milliseconds since 1970.
    pub expires_ms: Option<i64>,
    pub note: String,
}

/// A key that was made, with its text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MadeKey {
    pub id: String,
    /// Shown once.
    pub key: String,
    /// `null`: an operator's.
    pub project: Option<String>,
    pub scopes: Vec<Scope>,
    /// RFC 3339, UTC.
    pub expires: Option<String>,
    /// Of a rotated key: until when its old text is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_until: Option<String>,
}

/// A key as callers see it: never its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyView {
    pub id: String,
    /// `null`: an operator's.
    pub project: Option<String>,
    pub scopes: Vec<Scope>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    pub state: KeyState,
    pub created: String,
    pub expires: Option<String>,
    pub revoked: Option<String>,
    /// By any process, to the minute.
    pub last_used: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Whether it opens anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    Active,
    Expired,
    Revoked,
}

impl Operations {
    /// Makes a key.
    pub async fn create_key(&self, actor: &Actor, new: NewKey) -> Result<MadeKey, OperationError> {
        let id = format!("key_{}", Ulid::generate().to_string().to_lowercase());
        let project = new.project.clone().or_else(|| Some(actor.only_project()?.to_string())).unwrap_or_default();
        let details = json!({"scopes": new.scopes, "origins": new.origins, "operator": new.operator,
            "expires": new.expires_ms.map(time::text), "note": new.note});
        let outcome = self.create_named(actor, &id, new).await;
        let what = Audited { action: "keys.create", project: &project, object: &id, details };
        self.audited(actor, what, outcome).await
    }

    pub(super) async fn create_named(&self, actor: &Actor, id: &str, new: NewKey) -> Result<MadeKey, OperationError> {
        let project = match (new.operator, &new.project) {
            (true, Some(_)) => {
                return Err(OperationError::invalid("project", "is not of an operator's key: leave it out"));
            }
            (true, None) => {
                actor.operates()?;
                None
            }
            (false, named) => Some(self.chosen(actor, named.as_deref())?.name.to_string()),
        };
        let scopes = sound(&new, self.control.now_ms())?;
        let project_id = project.as_deref().unwrap_or_default();
        if self.active_keys(project_id) >= MAX_KEYS {
            return Err(OperationError::Full { what: "keys", limit: MAX_KEYS, instead: "revoke some first" });
        }
        if self.control.snapshot().records_of(Kind::Key, project_id).count() >= MAX_KEYS_EVER {
            let instead = "rotate keys instead of making new ones";
            return Err(OperationError::Full { what: "keys, revoked ones included", limit: MAX_KEYS_EVER, instead });
        }
        let text = key_text::generate(&scopes);
        let document = KeyDocument {
            scopes: scopes.clone(),
            origins: new.origins,
            secrets: vec![KeySecret { sha256: key_text::digest(text.expose()), until_ms: None }],
            created_ms: self.control.now_ms(),
            expires_ms: new.expires_ms,
            revoked_ms: None,
            note: new.note,
        };
        self.write_key(actor, project_id, id, 0, &document).await?;
        Ok(MadeKey {
            id: id.to_owned(),
            key: text.expose().to_owned(),
            project,
            scopes,
            expires: new.expires_ms.map(time::text),
            previous_until: None,
        })
    }

    /// The keys of a project, or all that the actor manages; the newest first.
    pub async fn keys(&self, actor: &Actor, project: Option<&str>) -> Result<Vec<KeyView>, OperationError> {
        if let Some(project) = project {
            self.project(actor, project)?;
        }
        let snapshot = self.control.snapshot();
        let is_wanted = |record: &&Arc<Record>| {
            actor.manages(&record.project) && project.is_none_or(|project| *record.project == *project)
        };
        let records: Vec<Arc<Record>> = snapshot.records(Kind::Key).filter(is_wanted).cloned().collect();
        let used =
            key_use::last_used(self.store()?, project.or(actor.only_project().map(|name| name.as_str()))).await?;
        let here = snapshot.keys().filter_map(|key| Some((&*key.id, key.used_ms()?)));
        let here: std::collections::HashMap<&str, i64> = here.collect();
        let now_ms = self.control.now_ms();
        let mut views = Vec::new();
        for record in &records {
            let Ok(document) = record.read::<KeyDocument>() else { continue };
            let used_ms = used.get(&*record.name).copied().max(here.get(&*record.name).copied());
            views.push((document.created_ms, view(record, document, used_ms, now_ms)));
        }
        views.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.id.cmp(&y.id)));
        Ok(views.into_iter().map(|(_, view)| view).collect())
    }

    /// Gives a key another text. The old one stays good for a while.
    pub async fn rotate_key(&self, actor: &Actor, id: &str, overlap_ms: i64) -> Result<MadeKey, OperationError> {
        let outcome = self.rotate(actor, id, overlap_ms).await;
        let project = self.project_of_key(id);
        let details = json!({"overlapSeconds": overlap_ms / 1_000});
        let what = Audited { action: "keys.rotate", project: &project, object: id, details };
        self.audited(actor, what, outcome).await
    }

    async fn rotate(&self, actor: &Actor, id: &str, overlap_ms: i64) -> Result<MadeKey, OperationError> {
        if !(0..=MAX_OVERLAP_MS).contains(&overlap_ms) {
            return Err(OperationError::invalid("overlap", "must be within 0 and 90 days"));
        }
        let (record, mut document) = self.known_key(actor, id).await?;
        let now_ms = self.control.now_ms();
        if document.revoked_ms.is_some() || document.expires_ms.is_some_and(|expires| expires <= now_ms) {
            return Err(OperationError::invalid(
                "id",
                "is of a key that was revoked or has expired, and another text would not change that: create another key",
            ));
        }
        // Nothing of a key outlives it.
        let until_ms = now_ms.saturating_add(overlap_ms).min(document.expires_ms.unwrap_or(i64::MAX));
        document.secrets.retain(|secret| secret.until_ms.is_none_or(|until| until > now_ms));
        for secret in &mut document.secrets {
            secret.until_ms = Some(secret.until_ms.map_or(until_ms, |until| until.min(until_ms)));
        }
        let text = key_text::generate(&document.scopes);
        document.secrets.insert(0, KeySecret { sha256: key_text::digest(text.expose()), until_ms: None });
        if document.secrets.len() > MAX_SECRETS {
            let instead = "wait until an old one ends, or rotate without overlap";
            return Err(OperationError::Full { what: "texts of a key", limit: MAX_SECRETS, instead });
        }
        self.write_key(actor, &record.project, id, record.version, &document).await?;
        Ok(MadeKey {
            id: id.to_owned(),
            key: text.expose().to_owned(),
            project: some(&record.project),
            scopes: document.scopes,
            expires: document.expires_ms.map(time::text),
            previous_until: Some(time::text(until_ms)),
        })
    }

    /// Closes a key for good. One that is revoked already stays as it is.
    pub async fn revoke_key(&self, actor: &Actor, id: &str) -> Result<KeyView, OperationError> {
        let outcome = self.revoke(actor, id).await;
        let project = self.project_of_key(id);
        let what = Audited { action: "keys.revoke", project: &project, object: id, details: json!({}) };
        self.audited(actor, what, outcome).await
    }

    async fn revoke(&self, actor: &Actor, id: &str) -> Result<KeyView, OperationError> {
        let now_ms = self.control.now_ms();
        // Another change of the key may come between: what was asked for still holds.
        for _ in 0..3 {
            let (record, mut document) = self.known_key(actor, id).await?;
            if document.revoked_ms.is_none() {
                document.revoked_ms = Some(now_ms);
                match self.write_key(actor, &record.project, id, record.version, &document).await {
                    Err(OperationError::Control(ControlError::Conflict { .. })) => {
                        self.control.refresh().await?;
                        continue;
                    }
                    written => written?,
                }
            }
            return Ok(view(&record, document, None, now_ms));
        }
        Err(ControlError::Unavailable.into())
    }

    async fn write_key(
        &self,
        actor: &Actor,
        project: &str,
        id: &str,
        replaces: u32,
        document: &KeyDocument,
    ) -> Result<(), OperationError> {
        // Texts and numbers alone: it cannot fail.
        let document = serde_json::to_string(document).unwrap_or_default();
        let (kind, name, document, by) = (Kind::Key, id, document.as_str(), actor.name());
        self.store()?.create(&New { kind, project, name, replaces, document, by }).await?;
        self.written().await;
        Ok(())
    }

    /// A key that the actor manages; one that another process made a moment ago, too.
    async fn known_key(&self, actor: &Actor, id: &str) -> Result<(Arc<Record>, KeyDocument), OperationError> {
        match self.key(actor, id) {
            Err(OperationError::NotFound { .. }) => {
                self.control.refresh().await?;
                self.key(actor, id)
            }
            known => known,
        }
    }

    /// A key that the actor manages, as far as it is known here.
    fn key(&self, actor: &Actor, id: &str) -> Result<(Arc<Record>, KeyDocument), OperationError> {
        let snapshot = self.control.snapshot();
        let found = snapshot.records(Kind::Key).find(|record| &*record.name == id);
        let record = found.filter(|record| match &*record.project {
            "" => actor.operates().is_ok(),
            project => actor.manages(project),
        });
        let record = record.ok_or_else(|| OperationError::not_found("key", id))?;
        let document = record.read().map_err(|error| OperationError::invalid("id", error.to_string()))?;
        Ok((Arc::clone(record), document))
    }

    fn project_of_key(&self, id: &str) -> String {
        let snapshot = self.control.snapshot();
        let found = snapshot.records(Kind::Key).find(|record| &*record.name == id);
        found.map(|record| record.project.to_string()).unwrap_or_default()
    }

    fn active_keys(&self, project: &str) -> usize {
        let snapshot = self.control.snapshot();
        let is_of_project = |of: Option<&str>| of.unwrap_or_default() == project;
        snapshot.keys().filter(|key| key.revoked_ms.is_none() && is_of_project(key.project.as_deref())).count()
    }
}

/// The scopes, each once, if the key makes sense.
fn sound(new: &NewKey, now_ms: i64) -> Result<Vec<Scope>, OperationError> {
    let mut scopes = new.scopes.clone();
    scopes.sort_unstable();
    scopes.dedup();
    let is_of_browsers = scopes.contains(&Scope::Browser);
    match (new.operator, scopes.as_slice()) {
        (true, [_, ..]) => {
            return Err(OperationError::invalid("scopes", "are not of an operator's key: leave them out"));
        }
        (false, []) => {
            let known = Scope::ALL.map(Scope::name).join(", ");
            return Err(OperationError::invalid("scopes", format!("are missing: at least one of {known}")));
        }
        (false, [_, _, ..]) if is_of_browsers => {
            let problem = "`browser` stands alone: everybody who opens the page knows the key";
            return Err(OperationError::invalid("scopes", problem));
        }
        _ => {}
    }
    match (is_of_browsers, new.origins.is_empty()) {
        (true, true) => {
            let problem = "are missing: name the pages that may send, such as https://app.example";
            return Err(OperationError::invalid("origins", problem));
        }
        (false, false) => return Err(OperationError::invalid("origins", "are of keys with the scope `browser` alone")),
        _ => {}
    }
    if new.origins.len() > MAX_ORIGINS {
        return Err(OperationError::Full {
            what: "origins of a key",
            limit: MAX_ORIGINS,
            instead: "make several keys",
        });
    }
    for origin in &new.origins {
        origin.parse::<Origin>().map_err(|problem| OperationError::invalid("origins", problem))?;
    }
    if new.expires_ms.is_some_and(|expires| expires <= now_ms) {
        return Err(OperationError::invalid("expires", "is past"));
    }
    if new.note.chars().count() > MAX_NOTE || new.note.chars().any(char::is_control) {
        return Err(OperationError::invalid("note", format!("is a line of at most {MAX_NOTE} characters")));
    }
    Ok(scopes)
}

fn some(project: &str) -> Option<String> {
    (!project.is_empty()).then(|| project.to_owned())
}

fn view(record: &Record, document: KeyDocument, used_ms: Option<i64>, now_ms: i64) -> KeyView {
    let state = match (document.revoked_ms, document.expires_ms) {
        (Some(_), _) => KeyState::Revoked,
        (None, Some(expires)) if expires <= now_ms => KeyState::Expired,
        (None, _) => KeyState::Active,
    };
    KeyView {
        id: record.name.to_string(),
        project: some(&record.project),
        scopes: document.scopes,
        origins: document.origins,
        state,
        created: time::text(document.created_ms),
        expires: document.expires_ms.map(time::text),
        revoked: document.revoked_ms.map(time::text),
        last_used: used_ms.map(time::text),
        note: document.note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_178_096_789;

    #[allow(clippy::needless_pass_by_value, reason = "a literal of the tests")]
    fn scopes(new: NewKey) -> Result<Vec<Scope>, String> {
        sound(&new, NOW).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_makes_sense() {
        let of = |scopes: &[Scope]| NewKey { scopes: scopes.to_vec(), ..NewKey::default() };
        assert_eq!(scopes(of(&[Scope::Sql, Scope::Ingest, Scope::Sql])), Ok(vec![Scope::Ingest, Scope::Sql]));
        let origins = || vec!["https://app.example".to_owned()];
        let browser = NewKey { origins: origins(), ..of(&[Scope::Browser]) };
        assert_eq!(scopes(browser.clone()), Ok(vec![Scope::Browser]));
        for (new, expected) in [
            (of(&[]), "`scopes` are missing"),
            (of(&[Scope::Browser]), "`origins` are missing"),
            (NewKey { origins: origins(), ..of(&[Scope::Ingest]) }, "`origins` are of keys"),
            (
                NewKey { scopes: vec![Scope::Browser, Scope::Query], ..browser.clone() },
                "`scopes` `browser` stands alone",
            ),
            (NewKey { origins: vec!["*".to_owned()], ..browser.clone() }, "`origins` `*` lets every web page in"),
            (NewKey { origins: vec![origins()[0].clone(); 101], ..browser }, "origins of a key: 100"),
            (NewKey { expires_ms: Some(NOW), ..of(&[Scope::Sql]) }, "`expires` is past"),
            (NewKey { note: "a\nb".to_owned(), ..of(&[Scope::Sql]) }, "`note` is a line"),
            (NewKey { operator: true, ..of(&[Scope::Admin]) }, "`scopes` are not of an operator's key"),
        ] {
            let error = scopes(new).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
