//! An authenticated caller.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::denied::Denied;
use super::rights::{Right, Rights};
use crate::cors::Origins;
use crate::rate_limit::Holder;

/// Whose data a caller works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenant {
    /// One project's.
    Project(Arc<str>),
    /// Nobody's: operators create projects and keys, and see no event.
    Installation,
}

/// Who a caller is, for limits, logs and the audit log. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A key, by its id.
    Key(Arc<str>),
    /// A person, as the identity provider names them.
    User(Arc<str>),
}

impl Subject {
    /// As logs name it.
    pub fn name(&self) -> &str {
        match self {
            Self::Key(name) | Self::User(name) => name,
        }
    }

    /// As records and the audit log name who did something. Whatever a provider calls somebody, it is no key and no command.
    pub fn audit_name(&self) -> String {
        match self {
            Self::Key(id) => id.to_string(),
            Self::User(name) => format!("user:{name}"),
        }
    }

    /// As limits count it.
    pub fn holder<'a>(&'a self, project: &'a str) -> Holder<'a> {
        match self {
            Self::Key(id) => Holder::key(project, id),
            Self::User(name) => Holder::user(project, name),
        }
    }
}

/// An authenticated caller. Only authentication makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub tenant: Tenant,
    pub subject: Subject,
    pub rights: Rights,
    /// Web pages that may use the credentials; those in a page are known to everybody.
    pub origins: Origins,
}

impl Principal {
    /// The project; `None` of an operator.
    pub fn project(&self) -> Option<&str> {
        match &self.tenant {
            Tenant::Project(name) => Some(name),
            Tenant::Installation => None,
        }
    }

    pub const fn may(&self, right: Right) -> bool {
        self.rights.has(right)
    }
}

/// The caller of a request, for handlers: `Caller(principal): Caller`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(pub Arc<Principal>);

/// Whoever authenticated is in the request's extensions. Nobody is there on a route that the gate did not see, which is refused.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denied> {
        parts.extensions.get::<Self>().cloned().ok_or(Denied::NoRule)
    }
}
