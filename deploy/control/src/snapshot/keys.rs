//! Keys by the digest of their text.
//!
//! A look-up is one step, whoever asks: the table is indexed by the first bytes of the digest, and the whole digest is compared in
//! constant time. SHA-256 stands between a text and its place, so a time tells nothing about other keys.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::http::{HeaderValue, StatusCode};
use subtle::ConstantTimeEq;
use tallyhouse_service::access::{Principal, Right, Rights, Scope, Subject, Tenant};
use tallyhouse_service::cors::{Origin, Origins};
use tallyhouse_service::rate_limit::LimitsOf;

use super::Project;
use crate::key_text::{self, Form, KeyDigest};
use crate::records::{KeyDocument, Record};

/// A key, and what it opens.
#[derive(Debug)]
pub struct Key {
    pub id: Arc<str>,
    /// `None`: an operator's.
    pub project: Option<Arc<str>>,
    pub scopes: Vec<Scope>,
    /// Who comes with it.
    pub principal: Arc<Principal>,
    pub expires_ms: Option<i64>,
    pub revoked_ms: Option<i64>,
    /// When it was last used in this process; 0: never. Kept from snapshot to snapshot.
    used_ms: Arc<AtomicI64>,
    is_fixed: bool,
}

impl Key {
    /// Whether it is in web pages, so that everybody knows it.
    pub fn is_of_browsers(&self) -> bool {
        self.scopes == [Scope::Browser]
    }

    /// Whether it is known without ClickHouse.
    pub const fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// Remembers that it was used.
    pub(crate) fn use_at(&self, now_ms: i64) {
        // A store that others see as a change costs them their cache line: once a second is enough.
        if now_ms.saturating_sub(self.used_ms.load(Ordering::Relaxed)) >= 1_000 {
            self.used_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// When it was last used in this process.
    pub fn used_ms(&self) -> Option<i64> {
        Some(self.used_ms.load(Ordering::Relaxed)).filter(|used_ms| *used_ms > 0)
    }

    fn check(&self, now_ms: i64) -> Result<(), KeyError> {
        match (self.revoked_ms, self.expires_ms) {
            (Some(_), _) => Err(KeyError::Revoked),
            (None, Some(expires)) if expires <= now_ms => Err(KeyError::Expired),
            (None, _) => Ok(()),
        }
    }
}

/// Why a text opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no key's text, whatever keys there are.
    #[error("this key is mistyped or cut: its check does not match")]
    Broken,
    /// Nobody has it.
    #[error("this key is not known")]
    Unknown,
    #[error(
        "this key has expired, or was rotated and its overlap is over; create another one with `tallyhouse keys create`"
    )]
    Expired,
    #[error("this key was revoked")]
    Revoked,
    /// No keys have been read yet: it may be one.
    #[error("the keys are not known yet, because ClickHouse has not answered; try again")]
    NotLoaded,
}

impl KeyError {
    /// For programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Broken | Self::Unknown => "unknown_key",
            Self::Expired => "expired_key",
            Self::Revoked => "revoked_key",
            Self::NotLoaded => "keys_not_loaded",
        }
    }

    /// Seconds after which trying again may help; `None`: it does not.
    pub const fn retry_after(self) -> Option<u32> {
        match self {
            Self::NotLoaded => Some(2),
            Self::Broken | Self::Unknown | Self::Expired | Self::Revoked => None,
        }
    }

    pub const fn status(self) -> StatusCode {
        match self {
            Self::NotLoaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken | Self::Unknown | Self::Expired | Self::Revoked => StatusCode::UNAUTHORIZED,
        }
    }
}

/// A key that a process knows without ClickHouse.
#[derive(Debug, Clone)]
pub struct FixedKey {
    /// Empty: an operator's.
    pub project: String,
    pub id: String,
    pub scopes: Vec<Scope>,
    pub origins: Origins,
}

impl FixedKey {
    /// For programs only.
    pub fn new(project: &str, id: &str, scopes: &[Scope]) -> Self {
        Self { project: project.to_owned(), id: id.to_owned(), scopes: scopes.to_vec(), origins: Origins::None }
    }

    /// An operator's.
    pub fn operator(id: &str) -> Self {
        Self::new("", id, &[])
    }

    /// The same for web pages of these origins.
    #[must_use]
    pub fn with_origins(self, origins: Origins) -> Self {
        Self { origins, ..self }
    }
}

/// Keys that a process knows without ClickHouse: those of development.
#[derive(Debug, Clone)]
pub struct FixedKeys {
    keys: Vec<(KeyDigest, Arc<Key>)>,
    /// What may be done with them.
    pub(super) limits: LimitsOf,
}

impl Default for FixedKeys {
    fn default() -> Self {
        Self { keys: Vec::new(), limits: LimitsOf::NONE }
    }
}

impl FixedKeys {
    /// The keys of development mode: project `demo`, `demo-ingest-key` (ingest, import) and `demo-query-key` (query, export, sql,
    /// admin); and project `guest` beside it, with `guest-ingest-key` and `guest-query-key` of the same kinds.
    pub fn development() -> Self {
        let mut keys = Self::default();
        for project in ["demo", "guest"] {
            let (ingest, query) = (format!("{project}-ingest"), format!("{project}-query"));
            let of_pages = FixedKey::new(project, &ingest, &[Scope::Ingest, Scope::Import]);
            keys.add(&format!("{ingest}-key"), of_pages.with_origins(Origins::Loopback));
            let reading = [Scope::Query, Scope::Export, Scope::Sql, Scope::Admin];
            keys.add(&format!("{query}-key"), FixedKey::new(project, &query, &reading));
        }
        keys
    }

    /// Adds a key by its text, which is not kept.
    pub fn add(&mut self, text: &str, key: FixedKey) {
        let FixedKey { project, id, scopes, origins } = key;
        let project = Some(project).filter(|project| !project.is_empty());
        let key = Key {
            principal: principal(project.as_deref(), &id, &scopes, origins),
            project: project.map(Arc::from),
            id: id.into(),
            scopes,
            expires_ms: None,
            revoked_ms: None,
            used_ms: Arc::default(),
            is_fixed: true,
        };
        self.keys.push((key_text::digest(text), Arc::new(key)));
    }

    /// With limits, for tests of these.
    #[must_use]
    pub fn with_limits(self, limits: LimitsOf) -> Self {
        Self { limits, ..self }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// One text of a key.
#[derive(Debug)]
struct Opening {
    digest: KeyDigest,
    until_ms: Option<i64>,
    key: Arc<Key>,
}

impl Opening {
    /// The key, if it opens then.
    fn at(&self, now_ms: i64) -> Result<&Arc<Key>, KeyError> {
        self.key.check(now_ms)?;
        match self.until_ms {
            Some(until_ms) if until_ms <= now_ms => Err(KeyError::Expired),
            _ => Ok(&self.key),
        }
    }
}

/// All keys by their digests.
#[derive(Debug, Default)]
pub(super) struct KeyTable {
    by_head: HashMap<[u8; 8], Vec<Opening>>,
    all: Vec<Arc<Key>>,
    pages: Pages,
}

/// Web pages that may send with some key.
#[derive(Debug, Default)]
struct Pages {
    of_this_machine: bool,
    listed: HashSet<String>,
}

impl KeyTable {
    pub(super) fn new(fixed: &FixedKeys) -> Self {
        let mut table = Self::default();
        for (digest, key) in &fixed.keys {
            table.add(Opening { digest: *digest, until_ms: None, key: Arc::clone(key) });
            table.list(Arc::clone(key));
        }
        table
    }

    /// Adds those that are kept, as far as their projects are there. `before` knows when they were used.
    pub(super) fn with<'a>(
        mut self,
        stored: impl Iterator<Item = &'a Arc<Record>>,
        projects: &HashMap<Arc<str>, Arc<Project>>,
        before: &Self,
    ) -> Self {
        let used: HashMap<&str, &Arc<AtomicI64>> = before.all.iter().map(|key| (&*key.id, &key.used_ms)).collect();
        for record in stored {
            let document: KeyDocument = match record.read() {
                Ok(document) => document,
                Err(error) => {
                    tracing::error!(%error, "a key cannot be read, so it opens nothing");
                    continue;
                }
            };
            if !record.project.is_empty() && !projects.contains_key(&record.project) {
                continue;
            }
            let used_ms = used.get(&*record.name).map(|used| Arc::clone(used)).unwrap_or_default();
            let key = Arc::new(key_of(record, &document, used_ms));
            for secret in &document.secrets {
                self.add(Opening { digest: secret.sha256, until_ms: secret.until_ms, key: Arc::clone(&key) });
            }
            self.list(key);
        }
        self
    }

    fn list(&mut self, key: Arc<Key>) {
        match &key.principal.origins {
            Origins::None => {}
            Origins::Loopback => self.pages.of_this_machine = true,
            Origins::Listed(origins) if key.revoked_ms.is_none() => {
                self.pages.listed.extend(origins.iter().map(ToString::to_string));
            }
            Origins::Listed(_) => {}
        }
        self.all.push(key);
    }

    /// Whether a page of this origin may send with some key: a preflight does not say with which.
    pub(super) fn any_allows(&self, origin: &HeaderValue) -> bool {
        let is_listed = origin.to_str().is_ok_and(|origin| self.pages.listed.contains(origin));
        is_listed || (self.pages.of_this_machine && Origins::Loopback.allows(origin))
    }

    fn add(&mut self, opening: Opening) {
        self.by_head.entry(head(&opening.digest)).or_default().push(opening);
    }

    /// The key of a text, and the digest under which it opens.
    pub(super) fn find(&self, text: &str, now_ms: i64, is_loaded: bool) -> Result<(&Arc<Key>, KeyDigest), KeyError> {
        let form = key_text::form(text);
        if form == Form::Broken {
            return Err(KeyError::Broken);
        }
        let digest = key_text::digest(text);
        match self.opening(&digest) {
            Some(opening) => Ok((opening.at(now_ms)?, digest)),
            // Nobody makes others than ours, so what is not ours is not looked for.
            None if form == Form::Whole && !is_loaded => Err(KeyError::NotLoaded),
            None => Err(KeyError::Unknown),
        }
    }

    fn opening(&self, digest: &KeyDigest) -> Option<&Opening> {
        let near = self.by_head.get(&head(digest)).map(Vec::as_slice).unwrap_or_default();
        near.iter().find(|opening| bool::from(opening.digest.ct_eq(digest)))
    }

    /// Until when a text opens its key, as far as nothing changes: `None` when it does not any more, `Some(None)` without an end.
    pub(super) fn opens_until(&self, digest: &KeyDigest, now_ms: i64) -> Option<Option<i64>> {
        let opening = self.opening(digest)?;
        let key = opening.at(now_ms).ok()?;
        Some([opening.until_ms, key.expires_ms].into_iter().flatten().min())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.all.iter()
    }
}

fn head(digest: &KeyDigest) -> [u8; 8] {
    digest.first_chunk().copied().unwrap_or_default()
}

fn key_of(record: &Record, document: &KeyDocument, used_ms: Arc<AtomicI64>) -> Key {
    let project = Some(&record.project).filter(|project| !project.is_empty());
    let origins: Vec<Origin> = document.origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let origins = if origins.is_empty() { Origins::None } else { Origins::Listed(origins) };
    Key {
        id: Arc::clone(&record.name),
        principal: principal(project.map(|project| &**project), &record.name, &document.scopes, origins),
        project: project.cloned(),
        scopes: document.scopes.clone(),
        expires_ms: document.expires_ms,
        revoked_ms: document.revoked_ms,
        used_ms,
        is_fixed: false,
    }
}

/// Who comes with a key. What belongs to no project belongs to an operator.
fn principal(project: Option<&str>, id: &str, scopes: &[Scope], origins: Origins) -> Arc<Principal> {
    const OPERATOR: Rights = Rights::of(&[Right::ManageInstallation, Right::ManageProject]);
    let rights = match project {
        Some(_) => scopes.iter().fold(Rights::NONE, |rights, scope| rights.and(scope.rights())),
        None => OPERATOR,
    };
    let tenant = project.map_or(Tenant::Installation, |project| Tenant::Project(project.into()));
    Arc::new(Principal { tenant, subject: Subject::Key(id.into()), rights, origins })
}
