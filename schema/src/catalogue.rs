//! What each event type declares: which property is its value, and which dimensions its rollups are kept for.
//!
//! Declarations are JSON documents, one per event type:
//!
//! ```json
//! {"eventType": "flight_departed", "value": "dep_delay",
//!  "dimensions": ["origin", "carrier"], "combinations": [["origin", "carrier"]],
//!  "mode": "enforce", "compatibility": "backward", "coerce": ["dep_delay"],
//!  "schema": {"required": ["origin"], "properties": {"origin": {"type": "string"}, "dep_delay": {"type": "number"}}}}
//! ```
//!
//! Those of a folder (`schema/events/*.json`) are what an installation begins with; registered ones take their place, per project.
//!
//! An event type without a declaration has the default sets and takes its value from `value`, `amount` or `revenue`.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dimension::{DEFAULT_SETS, DimSet, is_valid_name};
use crate::json_schema::compatibility::Compatibility;
use crate::json_schema::{EventSchema, Fault, MAX_SCHEMA_BYTES, Mode};
use crate::limits::{MAX_ID_CHARS, MAX_KEY_BYTES};

/// A document in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 2 * MAX_SCHEMA_BYTES;

/// Sets that one event type may declare beyond the default ones: each costs a row per bucket and value in three tables.
pub const MAX_DECLARED_SETS: usize = 16;

/// Properties that are an event's value when its type declares none: the first that can be counted wins.
pub const FALLBACK_VALUE_PROPERTIES: [&str; 3] = ["value", "amount", "revenue"];

/// The longest description, in characters.
const MAX_DESCRIPTION: usize = 1_000;

/// One declaration, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventTypeDeclaration {
    /// The event type that it is about.
    pub event_type: String,
    /// For people; not used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The property that is the event's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Properties (or `country`, `device`, `os`, `browser`, `locale`) that are rolled up alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<String>,
    /// Those that are rolled up together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub combinations: Vec<Vec<String>>,
    /// What happens to events that violate the schema.
    #[serde(default)]
    pub mode: Mode,
    /// What a new version of the schema has to promise.
    #[serde(default)]
    pub compatibility: Compatibility,
    /// What the properties must be: JSON Schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Properties that may come as text and are read as what the schema says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coerce: Vec<String>,
}

impl EventTypeDeclaration {
    /// Reads a document.
    pub fn read(document: &str) -> Result<Self, DeclarationError> {
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(DeclarationError::TooLarge { found: document.len() });
        }
        let read = crate::strict_json::read(document.as_bytes()).and_then(serde_json::from_value);
        read.map_err(|error| DeclarationError::Malformed(error.to_string()))
    }
}

/// What an event type's events are rolled up by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType {
    /// The property that is the value, or `None` for the fallback ones.
    pub value: Option<String>,
    /// Every set but the total: the default ones first, then the declared.
    pub sets: Vec<DimSet>,
    /// What its properties must be.
    pub schema: Option<Arc<EventSchema>>,
    /// Tells its declaration from others of the same type; 0 of one that is not registered.
    pub revision: u64,
    /// Since when sets are counted that were not always, in milliseconds since 1970, by their keys.
    pub since: BTreeMap<String, i64>,
}

impl Default for EventType {
    fn default() -> Self {
        Self {
            value: None,
            sets: DEFAULT_SETS.iter().map(|names| DimSet::of(names.iter().copied())).collect(),
            schema: None,
            revision: 0,
            since: BTreeMap::new(),
        }
    }
}

/// Why a declaration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclarationError {
    /// Not JSON, or not of this shape.
    #[error("{0}")]
    Malformed(String),
    /// A name that cannot be a dimension.
    #[error("`{0}` cannot be a dimension: a letter, then letters, digits, `_`, `.` or `-`, at most 64 bytes")]
    Name(String),
    /// More sets than a type may have.
    #[error("{found} dimension sets are declared, at most {MAX_DECLARED_SETS} are allowed")]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// Longer than a document may be.
    #[error("the document has {found} bytes, at most {MAX_DOCUMENT_BYTES} are taken")]
    TooLarge {
        /// Its size.
        found: usize,
    },
    /// A name that no event can have.
    #[error("`{0}` cannot be an event type: 1 to {MAX_ID_CHARS} characters, none of them a control character")]
    EventType(String),
    /// A name that no property can have.
    #[error("`{}` cannot be the value: the name of a property has 1 to {MAX_KEY_BYTES} bytes and no control characters", .0.escape_debug())]
    Value(String),
    /// A description that is too long.
    #[error("the description has more than {MAX_DESCRIPTION} characters")]
    Description,
    /// Its schema cannot be used.
    #[error("{0}")]
    Schema(#[from] Fault),
    /// Two documents about one event type.
    #[error("event type `{0}` is declared twice")]
    Twice(String),
}

/// All declarations.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    types: BTreeMap<String, Arc<EventType>>,
    undeclared: EventType,
}

/// The declarations of `schema/events`, which are there unless a deployment brings its own.
pub const BUILT_IN: [&str; 3] = [
    include_str!("../events/flight_cancelled.json"),
    include_str!("../events/flight_departed.json"),
    include_str!("../events/purchase.json"),
];

impl Catalogue {
    /// The declarations of `schema/events`.
    pub fn built_in() -> Result<Self, DeclarationError> {
        Self::from_documents(BUILT_IN)
    }

    /// Reads declarations, one JSON document each.
    pub fn from_documents<'a>(documents: impl IntoIterator<Item = &'a str>) -> Result<Self, DeclarationError> {
        let mut catalogue = Self::default();
        for document in documents {
            let declaration = EventTypeDeclaration::read(document)?;
            let name = declaration.event_type.clone();
            if catalogue.types.insert(name.clone(), Arc::new(EventType::declared(&declaration)?)).is_some() {
                return Err(DeclarationError::Twice(name));
            }
        }
        Ok(catalogue)
    }

    /// The same with another declaration of one type; `None` takes it away.
    #[must_use]
    pub fn with(mut self, name: &str, event_type: Option<Arc<EventType>>) -> Self {
        match event_type {
            Some(event_type) => drop(self.types.insert(name.to_owned(), event_type)),
            None => drop(self.types.remove(name)),
        }
        self
    }

    /// What events of this type are rolled up by; undeclared types have the defaults.
    pub fn event_type(&self, name: &str) -> &EventType {
        self.types.get(name).map_or(&self.undeclared, |declared| declared)
    }

    /// Whether this event type is declared.
    pub fn declares(&self, name: &str) -> bool {
        self.types.contains_key(name)
    }

    /// The names of all declared event types, in order.
    pub fn declared(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// Every dimension that some event type has, in order: what an unknown name is compared with.
    pub fn dimension_names(&self) -> BTreeSet<&str> {
        self.types
            .values()
            .map(|declared| &**declared)
            .chain([&self.undeclared])
            .flat_map(|t| &t.sets)
            .flat_map(DimSet::names)
            .map(String::as_str)
            .collect()
    }

    /// Declared event types whose rollups hold this set; the default sets are held by every type.
    pub fn types_with<'a>(&'a self, set: &'a DimSet) -> impl Iterator<Item = &'a str> {
        self.types.iter().filter(move |(_, t)| t.has(set)).map(|(name, _)| name.as_str())
    }

    /// Whether every event type, declared or not, is rolled up by this set.
    pub fn is_universal(&self, set: &DimSet) -> bool {
        set.is_total() || self.undeclared.has(set)
    }
}

impl EventType {
    /// What a declaration says.
    pub fn declared(declaration: &EventTypeDeclaration) -> Result<Self, DeclarationError> {
        names_are_possible(declaration)?;
        let schema = match &declaration.schema {
            Some(schema) => Some(Arc::new(EventSchema::compile(schema, &declaration.coerce, declaration.mode)?)),
            None if declaration.coerce.is_empty() => None,
            None => return Err(Fault::at("/coerce", "`coerce` needs a `schema`, which says what is read").into()),
        };
        let mut event_type = Self { value: declaration.value.clone(), schema, ..Self::default() };
        let defaults = event_type.sets.len();
        let singles = declaration.dimensions.iter().map(|name| vec![name.clone()]);
        for names in singles.chain(declaration.combinations.iter().cloned()) {
            if let Some(bad) = names.iter().find(|name| !is_valid_name(name)) {
                return Err(DeclarationError::Name(bad.clone()));
            }
            let set = DimSet::of(names);
            if !set.is_total() && !event_type.has(&set) {
                event_type.sets.push(set);
            }
        }
        let found = event_type.sets.len() - defaults;
        if found > MAX_DECLARED_SETS { Err(DeclarationError::TooMany { found }) } else { Ok(event_type) }
    }

    /// Whether rollups of this type hold the set.
    pub fn has(&self, set: &DimSet) -> bool {
        set.is_total() || self.sets.contains(set)
    }
}

fn names_are_possible(declaration: &EventTypeDeclaration) -> Result<(), DeclarationError> {
    let EventTypeDeclaration { event_type, value, description, .. } = declaration;
    let is_type = (1..=MAX_ID_CHARS).contains(&event_type.chars().count()) && !event_type.chars().any(char::is_control);
    if !is_type {
        return Err(DeclarationError::EventType(event_type.chars().take(MAX_ID_CHARS).collect()));
    }
    let is_name = |name: &str| (1..=MAX_KEY_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
    if let Some(value) = value.as_ref().filter(|value| !is_name(value)) {
        return Err(DeclarationError::Value(value.chars().take(MAX_ID_CHARS).collect()));
    }
    if description.chars().count() > MAX_DESCRIPTION { Err(DeclarationError::Description) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLIGHT: &str = r#"{"eventType":"flight_departed","value":"dep_delay","dimensions":["origin","carrier"],
        "combinations":[["origin","carrier"],["carrier","origin"],["device","country"]]}"#;

    #[test]
    fn declared_sets_come_after_the_default_ones_and_once() {
        let catalogue = Catalogue::from_documents([FLIGHT]).unwrap();
        let keys: Vec<_> = catalogue.event_type("flight_departed").sets.iter().map(DimSet::key).collect();
        assert_eq!(keys, ["country", "device", "country,device", "origin", "carrier", "carrier,origin"]);
        assert_eq!(catalogue.event_type("other").sets.len(), 3);
        assert!(catalogue.is_universal(&DimSet::of(["device", "country"])));
        assert!(!catalogue.is_universal(&DimSet::of(["origin"])));
        assert_eq!(catalogue.types_with(&DimSet::of(["origin"])).collect::<Vec<_>>(), ["flight_departed"]);
    }

    #[test]
    fn the_built_in_list_is_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/events");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), BUILT_IN.len());
        assert_eq!(Catalogue::built_in().unwrap().declared().count(), BUILT_IN.len());
    }

    #[test]
    fn bad_declarations_are_named() {
        let many: Vec<String> = (0..17).map(|i| format!("\"d{i}\"")).collect();
        let many = format!(r#"{{"eventType":"x","dimensions":[{}]}}"#, many.join(","));
        for (document, expected) in [
            (r#"{"eventType":"x","dimensions":["a,b"]}"#, "`a,b` cannot be a dimension"),
            (r#"{"eventType":"x","colour":1}"#, "unknown field `colour`"),
            (r#"{"eventType":"x","value":"a\u001b[2J"}"#, r"`a\u{1b}[2J` cannot be the value"),
            (many.as_str(), "17 dimension sets"),
        ] {
            let error = Catalogue::from_documents([document]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(
            Catalogue::from_documents([FLIGHT, FLIGHT]).unwrap_err(),
            DeclarationError::Twice("flight_departed".into())
        );
    }
}
