//! Commands on what is kept about people.

use clap::{Args, Subcommand};
use tallyhouse_schema::project::ProjectName;

#[derive(Debug, Args)]
pub(crate) struct Erase {
    /// The project
    #[arg(long, required_unless_present = "reapply")]
    pub(crate) project: Option<ProjectName>,
    /// The person's `userId`
    #[arg(long, required_unless_present_any = ["anonymous", "reapply"])]
    pub(crate) user: Option<String>,
    /// The person's `anonymousId`
    #[arg(long)]
    pub(crate) anonymous: Option<String>,
    /// Drop what they send from now on, too; otherwise they begin anew
    #[arg(long)]
    pub(crate) keep_suppressed: bool,
    /// Work on it here, unless a service does, until it is done: answers are right long before, replaced files leave the disk after 8 minutes
    #[arg(long)]
    pub(crate) wait: bool,
    /// Erase again what came back of people who were erased: after a restore
    #[arg(long, conflicts_with_all = ["project", "user", "anonymous", "keep_suppressed"])]
    pub(crate) reapply: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Erasures {
    /// Say whether a report is as this installation signed it
    Verify {
        /// The report, or the job with its report, as JSON
        file: std::path::PathBuf,
    },
}
