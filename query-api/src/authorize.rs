//! From a key to a [`Scope`]. Everything below takes a scope, so no project name can come from anywhere else.

use axum::http::HeaderMap;
use tallyhouse_control::{Control, KeyError};
use tallyhouse_service::access::Right;
use tallyhouse_service::keys;

/// What a caller may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    project: String,
    key_id: String,
    may_administer: bool,
}

impl Scope {
    /// The only project whose data the caller sees.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// A short name of the key, for logs and audit; not secret.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Nothing, if the caller may change what the project has.
    pub const fn administers(&self) -> Result<(), Denied> {
        if self.may_administer { Ok(()) } else { Err(Denied::NoAdmin) }
    }

    #[cfg(test)]
    pub(crate) fn for_test(project: &str) -> Self {
        Self { project: project.to_owned(), key_id: String::new(), may_administer: false }
    }
}

/// Why a caller may not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No key was shown.
    #[error("send a key with the scope `query` in `X-API-Key` or `Authorization: Bearer`")]
    NoKey,
    /// A key that opens nothing.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key for something else.
    #[error("this key does not have the scope `query`")]
    WrongScope,
    /// It may read, but not change.
    #[error("this key does not have the scope `admin`, which changing metrics needs")]
    NoAdmin,
}

/// Who is asking. The key is looked up among those that are known: see [`know`].
pub fn authorize(control: &Control, headers: &HeaderMap) -> Result<Scope, Denied> {
    let presented = keys::presented(headers).filter(|key| !key.is_empty()).ok_or(Denied::NoKey)?;
    let key = control.find(presented)?;
    let principal = &key.principal;
    if !principal.may(Right::ReadMetrics) {
        return Err(Denied::WrongScope);
    }
    let project = principal.project().ok_or(Denied::WrongScope)?;
    let may_administer = principal.may(Right::ManageMetrics);
    Ok(Scope { project: project.to_owned(), key_id: key.id.to_string(), may_administer })
}

/// Looks for a key that was made a moment ago, before the request is handled.
pub async fn know(control: &Control, headers: &HeaderMap) {
    if let Some(presented) = keys::presented(headers) {
        // What it opens is decided by whoever handles the request.
        drop(control.authenticate(presented).await);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use tallyhouse_control::FixedKeys;

    use super::*;

    #[test]
    fn only_a_key_with_the_scope_opens() {
        let control = Control::fixed(FixedKeys::development());
        let with = |key: &'static str| {
            let headers = HeaderMap::from_iter([("x-api-key".parse().unwrap(), HeaderValue::from_static(key))]);
            authorize(&control, &headers)
        };
        assert_eq!(with("demo-query-key").unwrap().project(), "demo");
        assert_eq!(with("demo-ingest-key"), Err(Denied::WrongScope));
        assert_eq!(with("nobody's"), Err(Denied::Key(KeyError::Unknown)));
        assert_eq!(with(""), Err(Denied::NoKey));
        assert_eq!(authorize(&control, &HeaderMap::new()), Err(Denied::NoKey));
    }
}
