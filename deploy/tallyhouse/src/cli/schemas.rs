//! Commands on declarations of event types.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tallyhouse_schema::project::ProjectName;

/// The project that is meant, and how results are printed.
#[derive(Debug, Clone, Args)]
pub(crate) struct SchemaScope {
    /// The project; without it, what all projects have that have none of their own
    #[arg(long)]
    pub(crate) project: Option<ProjectName>,
    /// Print one JSON value
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Schemas {
    /// Register files: in force everywhere within 5 seconds. What is in force already is left alone
    Apply {
        #[command(flatten)]
        scope: SchemaScope,
        /// Declarations, one JSON document a file
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// One line per event type
    List {
        #[command(flatten)]
        scope: SchemaScope,
    },
    /// Print the declaration that is in force
    Show {
        #[command(flatten)]
        scope: SchemaScope,
        /// The event type
        event_type: String,
    },
    /// Say what files would change, and whether they may: exit code 1 when one may not
    Diff {
        #[command(flatten)]
        scope: SchemaScope,
        /// Declarations, one JSON document a file
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Take a declaration away
    Delete {
        #[command(flatten)]
        scope: SchemaScope,
        /// The event type
        event_type: String,
    },
}
