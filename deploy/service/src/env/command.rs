//! The command line of a program: a flag and a line of help for each variable.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};

use super::read::Definition;
use super::{ConfigError, Env, ProcessEnv, variables_file};

/// Flags, then the environment of this process, then the file of variables.
#[derive(Debug, Clone, Default)]
pub struct FlagsAndEnv {
    flags: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
}

impl Env for FlagsAndEnv {
    fn get(&self, name: &str) -> Option<String> {
        Env::get(&self.flags, name).or_else(|| ProcessEnv.get(name)).or_else(|| Env::get(&self.file, name))
    }

    fn names(&self) -> Vec<String> {
        let mut names = ProcessEnv.names();
        names.extend(self.file.keys().cloned());
        names.sort_unstable();
        names.dedup();
        names
    }

    fn names_of_file(&self) -> Vec<String> {
        self.file.keys().cloned().collect()
    }
}

/// What `S` defines.
pub fn definitions<S: Args>() -> Vec<Definition> {
    let defined = S::augment_args(Command::new("variables"));
    let own = defined.get_arguments().filter_map(Definition::of);
    own.flat_map(|definition| [definition.file(), Some(definition)]).flatten().collect()
}

/// Adds what `S` defines to a command: flags, and a text about those that are given as variables only.
///
/// The argument's id is the variable's name, which tells it from the command's own arguments.
pub fn with<S: Args>(command: Command) -> Command {
    let defined = S::augment_args(Command::new("variables"));
    let mut secrets = String::new();
    let mut flags = Vec::new();
    for arg in defined.get_arguments() {
        let Some(definition) = Definition::of(arg) else { continue };
        if let Some(file) = definition.file() {
            write_secret(&mut secrets, &definition);
            flags.push(flag_of_file(arg, &file));
        } else {
            flags.push(flag(arg.clone(), &definition));
        }
    }
    let command = command.args(flags);
    if secrets.is_empty() {
        return command;
    }
    command.after_help(format!("Secrets, given as variables, or in files (`NAME_FILE`):{secrets}"))
}

fn write_secret(text: &mut String, definition: &Definition) {
    // Writing to a `String` cannot fail.
    let _ok = write!(text, "\n  {}\n          {}", definition.name, definition.meaning);
}

/// A path may be seen.
fn flag_of_file(secret: &Arg, file: &Definition) -> Arg {
    let help = format!("{} [env: {}]", file.meaning, file.name);
    let long = file.name.to_lowercase().replace('_', "-");
    let flag = Arg::new(file.name.clone()).long(long).value_name("PATH").help(help);
    match secret.get_help_heading() {
        Some(heading) => flag.help_heading(heading.to_owned()),
        None => flag,
    }
}

/// Clap is not to read the variable: [`super::read()`] does, and knows what a flag gave.
fn flag(arg: Arg, definition: &Definition) -> Arg {
    let bounds = definition.bounds.as_ref().map(|bounds| format!(" [{bounds}]")).unwrap_or_default();
    let unit = definition.bounds.as_ref().and_then(|bounds| bounds.rsplit(' ').next());
    let value = unit.map_or_else(|| "VALUE".to_owned(), str::to_uppercase);
    let help = format!("{}{bounds} [env: {}]", definition.meaning, definition.name);
    let arg = if definition.bounds.is_some() { arg.hide_possible_values(true) } else { arg };
    arg.id(definition.name.clone()).env(Resettable::Reset).value_name(value).help(help)
}

/// Reads the command line, and the file of variables if there is one. `--help`, `--version` and a line that cannot be understood end the process.
pub fn from_command_line(command: Command) -> Result<(ArgMatches, FlagsAndEnv), ConfigError> {
    let matches = command.arg(variables_file()).get_matches();
    let mut flags = BTreeMap::new();
    collect(&matches, &mut flags);
    let mut env = FlagsAndEnv { flags, file: BTreeMap::new() };
    if let Some(path) = env.get(variables_file::VARIABLE) {
        env.file = variables_file::read(&path)?;
    }
    Ok((matches, env))
}

/// Of the program and all that it can do.
fn variables_file() -> Arg {
    let help = format!(
        "File of variables, for those that are set neither here nor in the environment [env: {}]",
        variables_file::VARIABLE
    );
    Arg::new(variables_file::VARIABLE)
        .long("env-file")
        .value_name("PATH")
        .global(true)
        .help(help)
        .help_heading("Process")
}

fn collect(matches: &ArgMatches, flags: &mut BTreeMap<String, String>) {
    for id in matches.ids().map(clap::Id::as_str) {
        let is_variable = id.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        if is_variable && matches.value_source(id) == Some(ValueSource::CommandLine) {
            let value = matches.get_raw(id).and_then(|mut values| values.next());
            flags.extend(value.map(|value| (id.to_owned(), value.to_string_lossy().into_owned())));
        }
    }
    if let Some((_, below)) = matches.subcommand() {
        collect(below, flags);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{switch, whole};
    use super::*;

    #[derive(Debug, Args)]
    #[command(next_help_heading = "Batches")]
    struct Settings {
        /// A batch is full at this size
        #[arg(long, env = "BATCH_ROWS", default_value = "5", value_parser = whole::<usize>(1, 9, "rows"))]
        batch_rows: usize,
        /// Whether it is warm
        #[arg(long, env = "WARM", default_value = "on", value_parser = switch(), action = clap::ArgAction::Set)]
        warm: bool,
        /// Opens doors
        #[arg(env = "SECRET_KEY")]
        secret_key: Option<String>,
        /// Set for every test process
        #[arg(long, env = "CARGO_MANIFEST_DIR", default_value = "none")]
        cargo_manifest_dir: String,
    }

    fn command() -> Command {
        let below = with::<Settings>(Command::new("below")).arg(Arg::new("project").long("project"));
        Command::new("program").subcommand(below)
    }

    #[test]
    fn help_tells_name_default_bounds_and_unit() {
        let help = command().find_subcommand_mut("below").unwrap().render_long_help().to_string();
        let expected =
            ["Batches:", "--batch-rows <ROWS>", "A batch is full at this size [1 to 9 rows]", "[env: BATCH_ROWS]"];
        let more =
            ["[default: 5]", "[possible values: on, off]", "SECRET_KEY", "Opens doors", "--secret-key-file <PATH>"];
        for text in expected.iter().chain(&more) {
            assert!(help.contains(text), "{text}: {help}");
        }
        assert!(!help.contains("--secret-key ") && !help.contains(env!("CARGO_MANIFEST_DIR")), "{help}");
    }

    #[test]
    fn a_flag_stands_for_its_variable() {
        let read = |arguments: &[&str]| {
            let matches = command().try_get_matches_from(arguments)?;
            let mut flags = BTreeMap::new();
            collect(&matches, &mut flags);
            Ok::<_, clap::Error>(flags)
        };
        let flags = read(&["program", "below", "--batch-rows", "7", "--project", "p"]).unwrap();
        assert_eq!(flags, BTreeMap::from([("BATCH_ROWS".to_owned(), "7".to_owned())]));
        let env = FlagsAndEnv { flags, file: BTreeMap::new() };
        let settings: Settings = super::super::read(&env).unwrap();
        assert_eq!((settings.batch_rows, settings.warm, settings.secret_key), (7, true, None));
        let error = read(&["program", "below", "--batch-rows", "70"]).unwrap_err().to_string();
        assert!(error.contains("70 is not within 1 to 9"), "{error}");
        assert!(read(&["program", "below", "a-secret"]).is_err(), "a secret is not taken from the command line");
        let of_file = read(&["program", "below", "--secret-key-file", "/run/key"]).unwrap();
        assert_eq!(of_file, BTreeMap::from([("SECRET_KEY_FILE".to_owned(), "/run/key".to_owned())]));
    }
}
