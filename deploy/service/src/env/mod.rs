//! Configuration from variables. Every error names the variable, what it held and what would do.
//!
//! ```text
//! #[derive(clap::Args)] with `env = "NAME"`   the one definition: name, default, unit, bounds, meaning
//!   -> command   flags and help of a program
//!   -> read      values of an Env, parsed as the definition says
//!   -> file      a secret (it has no flag) may stand in the file that `NAME_FILE` names
//!   -> variables_file   what neither a flag nor the environment sets is looked up in `TALLYHOUSE_ENV_FILE`
//!   -> unknown   what is set and defined nowhere
//! ```
//!
//! Values come from an [`Env`], so that a test passes a map and nothing but the configuration of the services ever learns that
//! there is a process environment. Clap itself never reads it: an empty variable counts as not set, and an error names the
//! variable, not a flag.

mod checks;
mod command;
mod file;
mod read;
mod unknown;
mod values;
mod variables_file;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;

pub use checks::{apart, at_most, unused};
pub use command::{FlagsAndEnv, definitions, from_command_line, with};
pub use read::{Definition, read};
pub use unknown::{NAMES, unknown, warn_of_unknown};
pub use values::{Whole, address, choice, millis, switch, whole};
pub use variables_file::VariablesFile;

/// Where variables are read from.
pub trait Env {
    /// The variable's value, or `None` when it is not set. An empty value counts as not set.
    fn get(&self, name: &str) -> Option<String>;

    /// The names of all that are set.
    fn names(&self) -> Vec<String>;

    /// Those of a file that is for Tallyhouse alone.
    fn names_of_file(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Whether a variable has a value: its own, or as a secret that of its file.
pub fn is_set(env: &dyn Env, name: &str) -> bool {
    env.get(name).is_some() || env.get(&file::variable_of(name)).is_some()
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    /// What is not UTF-8 has U+FFFD in it, which [`read()`] refuses: it must not count as not set.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the process environment")]
    fn get(&self, name: &str) -> Option<String> {
        let value = std::env::var_os(name)?.to_string_lossy().into_owned();
        Some(value).filter(|value| !value.trim().is_empty())
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Env for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).filter(|value| !value.trim().is_empty()).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// A variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    /// The variable's name.
    pub variable: String,
    /// What is wrong and what would be right. Never the value of a secret.
    pub problem: String,
}

/// `EX_CONFIG` of `sysexits.h`: starting again without a change would change nothing, and the systemd unit does not.
pub const EXIT_CONFIG: u8 = 78;

/// What a program that cannot go on ends with.
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    if error.is::<ConfigError>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
}

impl ConfigError {
    /// An error about `variable`.
    pub fn new(variable: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { variable: variable.into(), problem: problem.into() }
    }
}
