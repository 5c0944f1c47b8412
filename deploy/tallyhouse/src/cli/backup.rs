//! Commands on backups.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Make one, while everything runs or while nothing does
    Create {
        /// Only what has changed since the last full one; without one before it, everything
        #[arg(long)]
        incremental: bool,
        /// Everything all the same, when the last full one is older than this, such as 24h
        #[arg(long, value_name = "TIME", value_parser = super::administration::span, requires = "incremental")]
        full_every: Option<i64>,
        /// Read a full one whole afterwards, as `verify` does
        #[arg(long)]
        verify: bool,
        /// Remove backups that are older than this, such as 7d; the newest full one stays
        #[arg(long, value_name = "TIME", value_parser = super::administration::span)]
        keep: Option<i64>,
        /// Go on, with this pause between two, until it is stopped: for a container without a schedule
        #[arg(long, value_name = "TIME", value_parser = super::administration::span)]
        repeat: Option<i64>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// One line per backup, the oldest first
    List {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Read one whole: exit code 1 when a file is missing, cut or changed
    Verify {
        /// Its name; default: the newest
        name: Option<String>,
    },
    /// Bring everything back, when nothing runs on the data folder
    Restore {
        /// Its name; default: the newest
        name: Option<String>,
        /// Replace what is there, all of it
        #[arg(long, requires = "yes_replace")]
        replace: bool,
        /// Yes, replace it
        #[arg(long, requires = "replace")]
        yes_replace: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}
