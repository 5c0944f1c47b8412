//! Records of tests.

use std::path::PathBuf;
use std::sync::Arc;

use tallyhouse_control::records::key::KeySecret;
use tallyhouse_control::records::{Document, KeyDocument, ProjectDocument};
use tallyhouse_control::{Control, ControlError, ControlOptions, ControlStore, FixedKeys, Kind, New, key_text};
use tallyhouse_service::access::Scope;
use tallyhouse_service::clock::now_ms;
use tallyhouse_service::secret::Secret;
use tallyhouse_sql::Connection;

/// A store with connections of its own.
pub fn store(connection: &Connection) -> ControlStore {
    ControlStore::new(connection, Some(connection))
}

/// A control plane as another process would have it.
pub fn control(connection: &Connection, data: Option<PathBuf>) -> Control {
    Control::open(ControlOptions {
        service: "test",
        data,
        store: Some(store(connection)),
        fixed: FixedKeys::default(),
        clock: Arc::new(now_ms),
    })
}

/// Writes a version of a document.
pub async fn put<D: Document>(
    store: &ControlStore,
    project: &str,
    name: &str,
    replaces: u32,
    document: &D,
) -> Result<u32, ControlError> {
    let document = serde_json::to_string(document).unwrap();
    store.create(&New { kind: D::KIND, project, name, replaces, document: &document, by: "test" }).await
}

/// A project with a key for events: its document and its text.
pub async fn project_with_key(store: &ControlStore, project: &str, id: &str) -> (KeyDocument, Secret) {
    put(store, project, project, 0, &ProjectDocument::default()).await.unwrap();
    let text = key_text::generate(&[Scope::Ingest]);
    let document = KeyDocument {
        scopes: vec![Scope::Ingest],
        origins: Vec::new(),
        secrets: vec![KeySecret { sha256: key_text::digest(text.expose()), until_ms: None }],
        created_ms: now_ms(),
        expires_ms: None,
        revoked_ms: None,
        note: String::new(),
    };
    put(store, project, id, 0, &document).await.unwrap();
    (document, text)
}

/// A record of any text.
pub const fn schema<'a>(project: &'a str, name: &'a str, replaces: u32, document: &'a str) -> New<'a> {
    New { kind: Kind::Schema, project, name, replaces, document, by: "test" }
}
