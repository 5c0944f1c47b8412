//! What events of a type are: value, dimensions, schema.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tallyhouse_schema::catalogue::EventTypeDeclaration;

use super::Document;
use crate::kind::Kind;

/// A version of a declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SchemaDocument {
    /// What is declared; `None`: nothing any more.
    pub declaration: Option<EventTypeDeclaration>,
    /// Since when sets of dimensions are counted that were not always, in milliseconds since 1970, by their keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<String, i64>,
}

impl Document for SchemaDocument {
    const KIND: Kind = Kind::Schema;
}
