//! Logs: one JSON object per line (`form.rs`) on standard error, or of services in `LOG_FILE`, filtered by `TALLYHOUSE_LOG` (default `info`). A failure that goes on is
//! told once and then counted, see `repeats.rs`; the last words of a process are a line like the others. What says who somebody is is
//! taken out, see `redact.rs`.

mod form;
mod repeats;

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::Arc;

use regex::Regex;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, filter::FilterExt, fmt, registry};

pub(crate) use self::form::Form;
use self::repeats::Repeats;
use crate::config;
use crate::env::{ConfigError, Env};
use crate::log_file::{self, LogFile};
use crate::redact::Redacted;

/// Starts the logging of a service. Call once, from `main`; a second call leaves the first in force.
pub fn init(service: &'static str, env: &dyn Env) -> Result<(), ConfigError> {
    let (filter, patterns) = (config::log_filter(env)?, config::log_patterns(env)?);
    let Some(settings) = config::log_file(env)? else {
        start(service, filter, patterns, Lines::StandardError);
        return Ok(());
    };
    let file = LogFile::open(settings).map_err(|error| ConfigError::new("LOG_FILE", error.to_string()))?;
    let file = Arc::new(file);
    log_file::use_for_this_process(&file);
    start(service, filter, patterns, Lines::File(file));
    Ok(())
}

/// Starts the logging of a command, which shares the variables of a service, but not its file.
pub fn init_command(service: &'static str, env: &dyn Env) -> Result<(), ConfigError> {
    start(service, config::log_filter(env)?, config::log_patterns(env)?, Lines::StandardError);
    Ok(())
}

/// Where lines go.
#[derive(Clone)]
enum Lines {
    StandardError,
    File(Arc<LogFile>),
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::StandardError => io::stderr().write(line),
            Self::File(file) => file.as_ref().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::StandardError => io::stderr().flush(),
            Self::File(file) => file.as_ref().flush(),
        }
    }
}

fn start(service: &'static str, filter: EnvFilter, patterns: Arc<[Regex]>, to: Lines) {
    let repeats = Repeats::default();
    let writer = move || Redacted::new(to.clone(), Arc::clone(&patterns));
    let lines = fmt::layer().event_format(Form { service }).with_writer(writer);
    let started = registry().with(lines.with_filter(filter.and(repeats.clone()))).try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
        return;
    }
    repeats.tell_every_minute();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("a panic without words");
        tracing::error!(place, what, "a fault of ours ended a task");
    }));
}

/// What a service says when it starts: the first line after its configuration was read.
#[derive(Debug)]
pub struct Start<'a> {
    /// Name of the program.
    pub program: &'a str,
    /// Version of the program.
    pub version: &'a str,
    /// What it is started as.
    pub mode: &'a str,
    /// Variables of addresses, and what they are.
    pub addresses: &'a [(&'a str, String)],
    /// `TALLYHOUSE_DEV`: keys that everybody knows.
    pub is_development: bool,
}

impl Start<'_> {
    /// Logs it.
    pub fn log(&self) {
        let addresses: Vec<String> = self.addresses.iter().map(|(name, address)| format!("{name}={address}")).collect();
        let (program, version, mode, addresses) = (self.program, self.version, self.mode, addresses.join(" "));
        if self.is_development {
            tracing::warn!(
                program,
                version,
                mode,
                addresses,
                "starting in DEVELOPMENT mode: keys that everybody knows are accepted"
            );
        } else {
            tracing::info!(program, version, mode, addresses, "starting");
        }
    }
}

/// The last line of a service that cannot go on, also when logging was not started.
pub fn fatal(program: &'static str, error: &dyn Display) {
    if !tracing::enabled!(tracing::Level::ERROR) {
        start(program, EnvFilter::new("error"), Arc::from([]), Lines::StandardError);
    }
    tracing::error!(program, %error, "cannot go on");
}
