//! The command line.

use clap::{Parser, Subcommand};
use tallyhouse::engine::child::ChildArgs;

/// Event analytics on ClickHouse, in one process.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start ClickHouse (unless `CLICKHOUSE_URL` is set), ingest and the query API, and run until ctrl-C
    Up,
    /// Start only the embedded ClickHouse, with all tables, and run until ctrl-C: what several services share on one machine
    Store,
    /// Bring the tables of a ClickHouse to this version, or say where they stand
    #[command(subcommand)]
    Migrate(Migrate),
    /// Say what is there and what is missing, without starting anything
    Doctor,
    /// Become the embedded ClickHouse
    #[command(hide = true)]
    Engine(ChildArgs),
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Migrate {
    /// Apply what is pending
    Up,
    /// Print where every migration stands
    Status,
    /// Fail unless everything is applied as it is
    Check,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
