//! What the code says of a program: its variables, and how long it takes to end.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use tallyhouse::config::settings::{ForAdministration, ForErase, ForMigrateUp, ForTopics};
use tallyhouse_ingest::config::settings::Variables as IngestVariables;
use tallyhouse_query_api::config::settings::Variables as QueryVariables;
use tallyhouse_service::env::{Definition, definitions};
use tallyhouse_service::lifecycle::MARGIN;

/// A program, by the last part of its image's name or of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Ingest,
    QueryApi,
    Tallyhouse,
    Loadtest,
}

impl Program {
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit('/').next()? {
            "ingest" => Some(Self::Ingest),
            "query-api" => Some(Self::QueryApi),
            "tallyhouse" => Some(Self::Tallyhouse),
            "loadtest" => Some(Self::Loadtest),
            _ => None,
        }
    }

    /// Of `tallyhouse/ingest:local`.
    pub fn of_image(image: &str) -> Option<Self> {
        let (name, _tag) = image.rsplit_once(':')?;
        Self::of(name.strip_prefix("tallyhouse/")?)
    }

    fn definitions(self) -> Vec<Definition> {
        fn of<S: Args>() -> Vec<Definition> {
            definitions::<S>()
        }
        match self {
            Self::Ingest => of::<IngestVariables>(),
            Self::QueryApi => of::<QueryVariables>(),
            Self::Tallyhouse => {
                [of::<ForAdministration>(), of::<ForMigrateUp>(), of::<ForErase>(), of::<ForTopics>()].concat()
            }
            Self::Loadtest => Vec::new(),
        }
    }

    /// Whether it reads this variable.
    pub fn reads(self, variable: &str) -> bool {
        self.definitions().iter().any(|definition| definition.name == variable)
    }

    /// A variable that is not set.
    fn default_of(self, variable: &str) -> String {
        let found = self.definitions().into_iter().find(|definition| definition.name == variable).unwrap();
        found.default.unwrap()
    }

    /// How long it may take from SIGTERM to its end.
    pub fn ends_within(self, env: &BTreeMap<String, String>) -> Duration {
        let ms = |name: &str, default: &dyn Fn() -> String| {
            let text = env.get(name).cloned().unwrap_or_else(default);
            Duration::from_millis(text.parse().unwrap())
        };
        let drain = match self {
            Self::Ingest => "INGEST_DRAIN_MS",
            Self::QueryApi => "QUERY_DRAIN_MS",
            // Commands end at once.
            Self::Tallyhouse | Self::Loadtest => return Duration::ZERO,
        };
        // Two seconds outside development; the definition has it in words.
        let delay = ms("TALLYHOUSE_SHUTDOWN_DELAY_MS", &|| "2000".to_owned());
        delay + ms(drain, &|| self.default_of(drain)) + MARGIN
    }
}
