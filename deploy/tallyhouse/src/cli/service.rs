//! `config` and `service`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Configuration {
    /// Print every variable of every program with default, bounds, unit and meaning, as Markdown: what deploy/configuration.md is
    Reference,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Copy this program and its ClickHouse library to their place, and write the systemd unit, the user and the file of variables. Starts
    /// nothing; run again, it brings the program and the unit up to date, and leaves the file of variables as it is
    Install(Place),
    /// Stop the service and remove what `install` made; data, variables and user stay
    Uninstall(Place),
    /// Print the systemd unit that `install` would write
    Unit(Place),
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Below it are `bin` and `lib`
    #[arg(long, value_name = "PATH", default_value = "/usr/local")]
    pub(crate) prefix: PathBuf,
    /// Put files below this folder, and make no user and call no systemd: for packages and images
    #[arg(long, value_name = "PATH")]
    pub(crate) root: Option<PathBuf>,
}
