//! API keys and what they permit.
//!
//! Only SHA-256 digests are held. A look-up compares digests in constant time over all keys, so neither the time taken
//! nor a core dump reveals a key.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::health::{Health, Status};

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Send events older than the late window.
    Import,
    /// Read metrics.
    Query,
    /// Change what a project has: its metrics.
    Admin,
}

/// What a known key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The project: the only source of a tenant's identity.
    pub project: String,
    /// A short name for logs and metrics; not secret.
    pub key_id: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

impl Grant {
    /// Whether the key has the scope.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// All keys that this process knows.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    keys: Vec<([u8; 32], Grant)>,
}

impl KeyRing {
    /// The keys of development mode: project `demo`, `demo-ingest-key` (ingest, import) and `demo-query-key` (query,
    /// admin); and project `guest` beside it, with `guest-ingest-key` and `guest-query-key` of the same kinds.
    pub fn development() -> Self {
        let mut ring = Self::default();
        for project in ["demo", "guest"] {
            let (ingest, query) = (format!("{project}-ingest"), format!("{project}-query"));
            ring.add(&format!("{ingest}-key"), grant(project, &ingest, &[Scope::Ingest, Scope::Import]));
            ring.add(&format!("{query}-key"), grant(project, &query, &[Scope::Query, Scope::Admin]));
        }
        ring
    }

    /// Whether nobody is let in.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Says in `/health` whether anybody is let in. Without a key a process serves nobody, so it is not ready.
    pub fn report(&self, health: &Health) {
        let (status, detail) = match self.is_empty() {
            true => (Status::Down, "there is no API key, so nobody is let in"),
            false => (Status::Up, ""),
        };
        health.set("keys", status, detail);
    }

    /// Adds a key by its text, which is not kept.
    pub fn add(&mut self, key: &str, grant: Grant) {
        self.keys.push((digest(key), grant));
    }

    /// What the presented key stands for, or `None`.
    pub fn find(&self, presented: &str) -> Option<&Grant> {
        let presented = digest(presented);
        let mut found = None;
        for (known, grant) in &self.keys {
            if bool::from(known.ct_eq(&presented)) {
                found = Some(grant);
            }
        }
        found
    }
}

/// A grant for `project`.
pub fn grant(project: &str, key_id: &str, scopes: &[Scope]) -> Grant {
    Grant { project: project.to_owned(), key_id: key_id.to_owned(), scopes: scopes.to_vec() }
}

/// The key in `X-API-Key` or `Authorization: Bearer`; `None` when neither is there or is text.
pub fn presented(headers: &axum::http::HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok().map(str::trim);
    }
    let (scheme, key) = headers.get(axum::http::header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn a_key_opens_only_what_it_is_for() {
        let ring = KeyRing::development();
        let ingest = ring.find("demo-ingest-key").unwrap();
        assert_eq!(ingest.project, "demo");
        assert!(ingest.allows(Scope::Import) && !ingest.allows(Scope::Query));
        for wrong in ["", "demo-ingest-ke", "demo-ingest-key ", "DEMO-INGEST-KEY"] {
            assert_eq!(ring.find(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn both_headers_are_read() {
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
        };
        assert_eq!(presented(&with("x-api-key", "k")), Some("k"));
        assert_eq!(presented(&with("authorization", "bearer k")), Some("k"));
        assert_eq!(presented(&with("authorization", "Basic k")), None);
        assert_eq!(presented(&HeaderMap::new()), None);
    }
}
