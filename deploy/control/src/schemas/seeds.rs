//! Declarations that an installation begins with: the files of `TALLYHOUSE_SCHEMAS`, else the built-in ones.
//!
//! They count once: the first process that may write records each as version 1 of the installation, unless a version is recorded already.
//! From then on the recorded version is in force, whatever the file says; a file that says something else is named in the log.

use std::sync::Arc;

use tallyhouse_schema::Catalogue;
use tallyhouse_schema::catalogue::{BUILT_IN, EventTypeDeclaration};
use tallyhouse_service::documents::{self, Document};
use tallyhouse_service::env::{ConfigError, Env};

use crate::handle::Control;
use crate::kind::Kind;
use crate::records::SchemaDocument;
use crate::store::{ControlError, New};

/// The variable that names the folder.
const VARIABLE: &str = "TALLYHOUSE_SCHEMAS";

/// Who records them.
const RECORDER: &str = "seed";

/// Declarations that an installation begins with. Clones share them.
#[derive(Clone)]
pub struct Seeds(Arc<Inner>);

struct Inner {
    catalogue: Catalogue,
    declarations: Vec<EventTypeDeclaration>,
}

impl Seeds {
    /// Those of the environment.
    pub fn from_env(env: &dyn Env) -> Result<Self, ConfigError> {
        let Some(files) = documents::json_documents(env, VARIABLE)? else {
            return Self::of(BUILT_IN.map(built_in)).map_err(|problem| ConfigError::new(VARIABLE, problem));
        };
        if files.is_empty() {
            let problem = "the folder has no *.json; leave the variable out for the built-in declarations";
            return Err(ConfigError::new(VARIABLE, problem));
        }
        let seeds = Self::of(files).map_err(|problem| ConfigError::new(VARIABLE, problem))?;
        let types = seeds.0.catalogue.declared().collect::<Vec<_>>().join(", ");
        tracing::info!(types, "the folder of TALLYHOUSE_SCHEMAS is used instead of the built-in declarations");
        Ok(seeds)
    }

    fn of(documents: impl IntoIterator<Item = Document>) -> Result<Self, String> {
        let (mut catalogue, mut declarations) = (Catalogue::default(), Vec::<EventTypeDeclaration>::new());
        for Document { path, text } in documents {
            let in_file = |error: &dyn std::fmt::Display| format!("{path}: {error}");
            let declaration = EventTypeDeclaration::read(&text).map_err(|error| in_file(&error))?;
            if declarations.iter().any(|earlier| earlier.event_type == declaration.event_type) {
                return Err(in_file(&format!("event type `{}` is declared twice", declaration.event_type)));
            }
            let document = SchemaDocument { declaration: Some(declaration.clone()), since: Default::default() };
            let event_type = super::live::event_type(&document, 0).map_err(|error| in_file(&error))?;
            catalogue = catalogue.with(&declaration.event_type, event_type);
            declarations.push(declaration);
        }
        Ok(Self(Arc::new(Inner { catalogue, declarations })))
    }

    /// Declarations that are not to be recorded.
    pub fn of_catalogue(catalogue: Catalogue) -> Self {
        Self(Arc::new(Inner { catalogue, declarations: Vec::new() }))
    }

    /// What they declare.
    pub fn catalogue(&self) -> &Catalogue {
        &self.0.catalogue
    }

    /// As written.
    pub(super) fn declarations(&self) -> &[EventTypeDeclaration] {
        &self.0.declarations
    }

    /// Records those of which nothing is recorded. Whether that is done, or not to be done here.
    pub(super) async fn record(&self, control: &Control) -> bool {
        let Some(store) = control.store().filter(|store| store.can_write()) else { return true };
        let snapshot = control.snapshot();
        let mut is_new = false;
        for declaration in &self.0.declarations {
            let name = declaration.event_type.as_str();
            if let Some(record) = snapshot.record(Kind::Schema, "", name) {
                let in_force = record.read::<SchemaDocument>().ok().and_then(|document| document.declaration);
                if in_force.as_ref() != Some(declaration) {
                    tracing::warn!(
                        event_type = name,
                        version = record.version,
                        "the recorded declaration is in force and differs from the one this process was started with; \
                         `tallyhouse schemas apply FILE` registers a file"
                    );
                }
                continue;
            }
            let document = SchemaDocument { declaration: Some(declaration.clone()), since: Default::default() };
            let Ok(document) = serde_json::to_string(&document) else { continue };
            let new = New { kind: Kind::Schema, project: "", name, replaces: 0, document: &document, by: RECORDER };
            match store.create(&new).await {
                Ok(_) => is_new = true,
                // Another process was first.
                Err(ControlError::Conflict { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, event_type = name, "the declaration is not recorded yet");
                    return false;
                }
            }
        }
        if is_new && let Err(error) = control.refresh().await {
            tracing::warn!(%error, "the declarations are recorded, and not known here yet");
        }
        true
    }
}

fn built_in(text: &str) -> Document {
    Document { path: "built-in".to_owned(), text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_folder_replaces_the_built_in_ones_and_an_empty_one_is_an_error() {
        let folder = std::env::temp_dir().join(format!("tallyhouse-seeds-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let env = BTreeMap::from([(VARIABLE.to_owned(), folder.display().to_string())]);
        let seeds =
            || Seeds::from_env(&env).map(|seeds| seeds.catalogue().declared().map(str::to_owned).collect::<Vec<_>>());
        assert!(seeds().unwrap_err().to_string().contains("has no *.json"));
        std::fs::write(folder.join("one.json"), r#"{"eventType":"one","dimensions":["plan"]}"#).unwrap();
        assert_eq!(seeds().unwrap(), ["one"]);
        std::fs::write(folder.join("two.json"), r#"{"eventType":"one"}"#).unwrap();
        assert!(seeds().unwrap_err().to_string().contains("two.json: event type `one` is declared twice"));
        std::fs::write(folder.join("two.json"), r#"{"eventType":"two","schema":{"type":"text"}}"#).unwrap();
        assert!(seeds().unwrap_err().to_string().contains("two.json: `/schema/type`"));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(Seeds::from_env(&BTreeMap::new()).unwrap().catalogue().declared().count(), BUILT_IN.len());
    }
}
