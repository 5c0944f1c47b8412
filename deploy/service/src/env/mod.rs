//! Configuration from variables. Every error names the variable, what it held and what would do.
//!
//! Values come from an [`Env`], so that a test passes a map and nothing but `config.rs` files of the services ever
//! learns that there is a process environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where variables are read from.
pub trait Env {
    /// The variable's value, or `None` when it is not set. An empty value counts as not set.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the process environment")]
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.trim().is_empty())
    }
}

impl Env for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).filter(|value| !value.trim().is_empty()).cloned()
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

impl ConfigError {
    /// An error about `variable`.
    pub fn new(variable: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { variable: variable.into(), problem: problem.into() }
    }
}

/// The value of `name`, or `default` when it is not set. `expected` says what would do ("a whole number of rows").
pub fn parsed<T: FromStr>(env: &dyn Env, name: &str, expected: &str, default: T) -> Result<T, ConfigError> {
    Ok(optional(env, name, expected)?.unwrap_or(default))
}

/// The value of `name`, or `None` when it is not set.
pub fn optional<T: FromStr>(env: &dyn Env, name: &str, expected: &str) -> Result<Option<T>, ConfigError> {
    env.get(name)
        .map(|text| {
            let text = text.trim();
            text.parse().map_err(|_| ConfigError::new(name, format!("`{text}` is not {expected}")))
        })
        .transpose()
}

/// The value of `name`, which must be set.
pub fn required<T: FromStr>(env: &dyn Env, name: &str, expected: &str) -> Result<T, ConfigError> {
    optional(env, name, expected)?.ok_or_else(|| ConfigError::new(name, format!("is not set; it must be {expected}")))
}

/// A number within `bounds` (inclusive).
pub fn bounded(env: &dyn Env, name: &str, bounds: (u64, u64), default: u64) -> Result<u64, ConfigError> {
    let (least, most) = bounds;
    let value = parsed(env, name, &format!("a whole number from {least} to {most}"), default)?;
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::new(name, format!("{value} is not within {least} to {most}")))
    }
}

/// A duration in milliseconds; the variable's name should end in `_MS`.
pub fn millis(env: &dyn Env, name: &str, bounds: (u64, u64), default: u64) -> Result<Duration, ConfigError> {
    bounded(env, name, bounds, default).map(Duration::from_millis)
}

/// An address to listen on.
pub fn address(env: &dyn Env, name: &str, default: ([u8; 4], u16)) -> Result<SocketAddr, ConfigError> {
    parsed(env, name, "an address and a port, such as 127.0.0.1:8081", SocketAddr::from(default))
}

/// A path.
pub fn path(env: &dyn Env, name: &str, default: &str) -> PathBuf {
    env.get(name).map_or_else(|| PathBuf::from(default), PathBuf::from)
}

/// A switch: `1`, `true`, `on`, `yes` or `0`, `false`, `off`, `no`.
pub fn switch(env: &dyn Env, name: &str) -> Result<bool, ConfigError> {
    match env.get(name).map(|value| value.trim().to_ascii_lowercase()).as_deref() {
        None | Some("0" | "false" | "off" | "no") => Ok(false),
        Some("1" | "true" | "on" | "yes") => Ok(true),
        Some(other) => Err(ConfigError::new(name, format!("`{other}` is neither 1 nor 0"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn errors_name_the_variable_and_say_what_would_do() {
        let env = env(&[("ADDR", "here"), ("ROWS", "0"), ("DEV", "maybe")]);
        assert_eq!(
            address(&env, "ADDR", ([127, 0, 0, 1], 1)).unwrap_err().to_string(),
            "ADDR: `here` is not an address and a port, such as 127.0.0.1:8081"
        );
        assert_eq!(bounded(&env, "ROWS", (1, 9), 5).unwrap_err().to_string(), "ROWS: 0 is not within 1 to 9");
        assert_eq!(switch(&env, "DEV").unwrap_err().to_string(), "DEV: `maybe` is neither 1 nor 0");
        assert_eq!(
            required::<u16>(&env, "PORT", "a port").unwrap_err().to_string(),
            "PORT: is not set; it must be a port"
        );
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let env = env(&[("ROWS", " ")]);
        assert_eq!(bounded(&env, "ROWS", (1, 9), 5), Ok(5));
    }
}
