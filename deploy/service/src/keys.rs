//! API keys and what they permit.
//!
//! Only SHA-256 digests are held. A look-up compares digests in constant time over all keys, so neither the time taken
//! nor a core dump reveals a key.

use axum::http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::cors::Origins;

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
    /// Web pages that may send events with it; a key that is in a page is known to everybody.
    pub origins: Origins,
}

impl Grant {
    /// Whether the key has the scope.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// The same for web pages of these origins.
    #[must_use]
    pub fn with_origins(self, origins: Origins) -> Self {
        Self { origins, ..self }
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
            let of_pages = grant(project, &ingest, &[Scope::Ingest, Scope::Import]).with_origins(Origins::Loopback);
            ring.add(&format!("{ingest}-key"), of_pages);
            ring.add(&format!("{query}-key"), grant(project, &query, &[Scope::Query, Scope::Admin]));
        }
        ring
    }

    /// Whether no web page may send events.
    pub fn has_no_origins(&self) -> bool {
        self.keys.iter().all(|(_, grant)| grant.origins.is_none())
    }

    /// Whether a page of this origin may send what has these headers: as its key says. A preflight has no key: any that could follow
    /// is asked.
    pub fn allows_origin(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        match presented(headers) {
            Some(key) => self.find(key).is_some_and(|grant| grant.origins.allows(origin)),
            None => self.keys.iter().any(|(_, grant)| grant.origins.allows(origin)),
        }
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
    Grant { project: project.to_owned(), key_id: key_id.to_owned(), scopes: scopes.to_vec(), origins: Origins::None }
}

/// The key in `X-API-Key` or `Authorization: Bearer`; `None` when neither is there or is text.
pub fn presented(headers: &HeaderMap) -> Option<&str> {
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
    use axum::http::HeaderName;

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
    fn a_page_sends_with_a_key_that_allows_its_origin() {
        let mut ring = KeyRing::default();
        ring.add("of-no-page", grant("p", "none", &[Scope::Ingest]));
        assert!(ring.has_no_origins());
        let listed = Origins::Listed(vec!["https://app.example".parse().unwrap()]);
        ring.add("of-pages", grant("p", "pages", &[Scope::Ingest]).with_origins(listed));
        assert!(!ring.has_no_origins());
        let allows = |origin: &'static str, key: Option<&'static str>| {
            let headers = key.map(|key| (HeaderName::from_static("x-api-key"), HeaderValue::from_static(key)));
            ring.allows_origin(&HeaderValue::from_static(origin), &headers.into_iter().collect())
        };
        assert!(allows("https://app.example", Some("of-pages")) && allows("https://app.example", None));
        assert!(!allows("https://app.example", Some("of-no-page")) && !allows("https://app.example", Some("unknown")));
        assert!(!allows("https://evil.example", Some("of-pages")) && !allows("https://evil.example", None));
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
