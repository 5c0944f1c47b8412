//! Reads values from an [`Env`] by their definitions.

use std::error::Error;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Args, Command};

use super::{ConfigError, Env, file};

/// What is defined about a variable.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its default, as it would be written, unless there is none or it is worked out.
    pub default: Option<String>,
    /// Its bounds and unit: `1 to 131072 rows`.
    pub bounds: Option<String>,
    /// What it is for.
    pub meaning: String,
    /// It is given as a variable only: there is no flag, which other processes could see.
    pub is_secret: bool,
    /// The words that it takes, when there are only some.
    pub words: Vec<String>,
    /// What it is about, as help has it.
    pub heading: String,
}

impl Definition {
    /// What an argument defines, when it is a variable.
    pub(super) fn of(arg: &Arg) -> Option<Self> {
        let values = arg.get_possible_values();
        let bounds = values.iter().find_map(|value| Some(format!("{} {}", value.get_name(), value.get_help()?)));
        let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        Some(Self {
            name: name(arg)?,
            default: (!default.is_empty()).then(|| default.join(" ")),
            bounds,
            meaning: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            is_secret: is_secret(arg),
            words: values.iter().filter(|value| value.get_help().is_none()).map(|v| v.get_name().to_owned()).collect(),
            heading: arg.get_help_heading().unwrap_or_default().to_owned(),
        })
    }

    /// The variable that names the file of a secret.
    pub(super) fn file(&self) -> Option<Self> {
        self.is_secret.then(|| Self {
            name: file::variable_of(&self.name),
            default: None,
            bounds: None,
            meaning: format!("File that holds `{}`", self.name),
            is_secret: false,
            words: Vec::new(),
            heading: self.heading.clone(),
        })
    }
}

/// The variable that an argument defines.
pub(super) fn name(arg: &Arg) -> Option<String> {
    arg.get_env().map(|name| name.to_string_lossy().into_owned())
}

/// A secret has no flag: other processes would see its value.
fn is_secret(arg: &Arg) -> bool {
    arg.get_long().is_none()
}

/// The values that `env` has for what `S` defines, else the defaults. Nothing else is read.
pub fn read<S: Args>(env: &dyn Env) -> Result<S, ConfigError> {
    let defined = S::augment_args(Command::new("variables").no_binary_name(true).disable_help_flag(true));
    let names = defined.get_arguments().filter_map(|arg| Some((name(arg)?, is_secret(arg))));
    let set = names.filter_map(|(name, is_secret)| given(env, &name, is_secret)).collect::<Result<Vec<String>, _>>()?;
    // A secret has no flag of its own, so each is called as its variable is.
    let command = defined.mut_args(|arg| match name(&arg) {
        Some(name) => arg.long(name).env(Resettable::Reset),
        None => arg,
    });
    let matches = command.try_get_matches_from(set).map_err(|error| explained(&error))?;
    S::from_arg_matches(&matches).map_err(|error| explained(&error))
}

fn given(env: &dyn Env, name: &str, is_secret: bool) -> Option<Result<String, ConfigError>> {
    let value = env.get(name);
    let of_file = if is_secret { file::given(env, name, value.as_deref()) } else { None };
    let value = match of_file {
        Some(Ok(value)) => value,
        Some(Err(error)) => return Some(Err(error)),
        None => value?,
    };
    let is_broken = value.contains(char::REPLACEMENT_CHARACTER);
    Some(if is_broken { Err(ConfigError::new(name, "is not UTF-8")) } else { Ok(format!("--{name}={value}")) })
}

/// Of what clap says only the variable and the reason are told: the value may be a secret.
fn explained(error: &clap::Error) -> ConfigError {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        _ => "",
    };
    let variable = argument.trim_start_matches("--").split([' ', '=']).next().unwrap_or_default();
    let reason = error.source().map_or_else(|| "cannot be used".to_owned(), ToString::to_string);
    ConfigError::new(variable, reason)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::super::{address, choice, millis, switch, whole};
    use super::*;

    #[derive(Debug, Args)]
    struct Settings {
        /// Where to listen
        #[arg(long, env = "ADDR", default_value = "127.0.0.1:1", value_parser = address)]
        addr: SocketAddr,
        /// Rows
        #[arg(long, env = "ROWS", default_value = "5", value_parser = whole::<usize>(1, 9, "rows"))]
        rows: usize,
        /// A wait
        #[arg(long, env = "WAIT_MS", default_value = "7", value_parser = millis(0, 9))]
        wait: Duration,
        /// A switch
        #[arg(long, env = "DEV", default_value = "off", value_parser = switch(), action = clap::ArgAction::Set)]
        dev: bool,
        /// A word
        #[arg(long, env = "WORD", value_parser = choice::<Word>(&["a", "b", "c"]))]
        word: Option<Word>,
        /// A secret
        #[arg(env = "SECRET", value_parser = |text: &str| text.parse::<u8>().map_err(|_| "is not a small number"))]
        secret: Option<u8>,
        /// Set for every test process
        #[arg(long, env = "CARGO_MANIFEST_DIR")]
        process: Option<String>,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Word(char);

    impl std::str::FromStr for Word {
        type Err = ();

        fn from_str(text: &str) -> Result<Self, ()> {
            text.parse().map(Word).map_err(drop)
        }
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn error(pairs: &[(&str, &str)]) -> String {
        read::<Settings>(&env(pairs)).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_variable_and_say_what_would_do() {
        let cases = [
            ("ADDR", "here", "`here` is not an address and a port, such as 127.0.0.1:8081"),
            ("ROWS", "0", "0 is not within 1 to 9"),
            ("ROWS", "many", "`many` is not a whole number from 1 to 9"),
            ("WAIT_MS", "-1", "`-1` is not a whole number from 0 to 9"),
            ("DEV", "Maybe", "`maybe` is neither 1 nor 0"),
            ("WORD", "what", "`what` is not a, b or c"),
            ("SECRET", "hunter2", "is not a small number"),
            ("SECRET", "hunter\u{fffd}", "is not UTF-8"),
        ];
        for (name, value, reason) in cases {
            assert_eq!(error(&[(name, value)]), format!("{name}: {reason}"));
        }
    }

    #[test]
    fn an_empty_variable_is_not_set_and_the_process_is_not_asked() {
        let read: Settings = read(&env(&[("ROWS", " "), ("SECRET", "")])).unwrap();
        assert_eq!((read.rows, read.secret, read.word, read.process), (5, None, None, None));
    }

    #[test]
    fn what_is_set_is_read() {
        let pairs = [("ADDR", " 0.0.0.0:80 "), ("WAIT_MS", "9"), ("DEV", "YES"), ("WORD", "b"), ("SECRET", "3")];
        let read: Settings = read(&env(&pairs)).unwrap();
        assert_eq!(read.addr, SocketAddr::from(([0, 0, 0, 0], 80)));
        assert_eq!((read.wait, read.dev), (Duration::from_millis(9), true));
        assert_eq!((read.word, read.secret), (Some(Word('b')), Some(3)));
    }
}
