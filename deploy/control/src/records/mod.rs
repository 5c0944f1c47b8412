//! What the records of each kind hold.
//!
//! A kind is a document: a type that says what its JSON is. Another kind needs a file like [`key`] with `impl Document`, and an
//! operation that creates it.

pub mod grant;
pub mod key;
pub mod project;
pub mod schema;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kind::Kind;

pub use grant::GrantDocument;
pub use key::KeyDocument;
pub use project::{ProjectDocument, limits_priority};
pub use schema::SchemaDocument;

/// The JSON of a kind.
pub trait Document: Serialize + DeserializeOwned {
    const KIND: Kind;
}

/// What is kept under a name, in one of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    /// Empty for what belongs to the installation.
    pub project: Arc<str>,
    pub name: Arc<str>,
    /// From 1 on, without gaps.
    pub version: u32,
    /// JSON, as the kind says; empty when it had to be forgotten.
    pub document: String,
    /// The id of a key, or a user.
    pub created_by: String,
    /// Milliseconds since 1970, of ClickHouse's clock.
    pub created_ms: i64,
}

/// A record whose document is not what its kind says: of a newer version, or made empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version {version} of {kind} `{name}` cannot be read: {problem}")]
pub struct Unreadable {
    pub kind: Kind,
    pub name: Arc<str>,
    pub version: u32,
    pub problem: String,
}

impl Record {
    /// Its document.
    pub fn read<D: Document>(&self) -> Result<D, Unreadable> {
        let unreadable =
            |problem| Unreadable { kind: self.kind, name: self.name.clone(), version: self.version, problem };
        if self.kind != D::KIND {
            return Err(unreadable(format!("it is no {}", D::KIND)));
        }
        serde_json::from_str(&self.document).map_err(|error| unreadable(error.to_string()))
    }
}
