//! Reads compose.yaml as Compose does, as far as the file goes: anchors, merges, and variables of .env.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_yaml_ng::Value;

use crate::programs::Program;
use crate::tools::{output, read, root};

/// Where the file is.
pub fn folder() -> PathBuf {
    root().join("deploy/compose")
}

/// The file with its variables filled in.
pub struct Compose {
    pub file: Value,
}

impl Compose {
    pub fn read(variables: &BTreeMap<String, String>) -> Self {
        Self::read_file("compose/compose.yaml", variables)
    }

    /// One that stands beside it.
    pub fn read_file(path: &str, variables: &BTreeMap<String, String>) -> Self {
        let mut file: Value = serde_yaml_ng::from_str(&read(path)).unwrap();
        // A merged mapping that merges itself is filled in by the next pass.
        for _ in 0..3 {
            file.apply_merge().unwrap();
        }
        fill_in(&mut file, variables);
        Self { file }
    }

    pub fn services(&self) -> impl Iterator<Item = Service<'_>> {
        let services = self.file["services"].as_mapping().unwrap();
        services.iter().map(|(name, value)| Service { name: name.as_str().unwrap(), value })
    }

    pub fn service<'a>(&'a self, name: &'a str) -> Service<'a> {
        let value = &self.file["services"][name];
        assert!(value.is_mapping(), "there is no service {name}");
        Service { name, value }
    }
}

/// A service of it.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    pub name: &'a str,
    pub value: &'a Value,
}

impl<'a> Service<'a> {
    pub fn image(self) -> &'a str {
        self.value["image"].as_str().unwrap()
    }

    /// The program of ours that it runs.
    pub fn program(self) -> Option<Program> {
        Program::of_image(self.image())
    }

    pub fn env(self) -> BTreeMap<String, String> {
        let Some(env) = self.value["environment"].as_mapping() else { return BTreeMap::new() };
        env.iter().map(|(name, value)| (name.as_str().unwrap().to_owned(), scalar(value))).collect()
    }

    pub fn command(self) -> Vec<String> {
        self.value["command"].as_sequence().map(|words| words.iter().map(scalar).collect()).unwrap_or_default()
    }

    /// `source:target[:mode]`.
    pub fn volumes(self) -> Vec<(&'a str, &'a str)> {
        let volumes = self.value["volumes"].as_sequence().into_iter().flatten();
        volumes
            .map(|volume| {
                let (source, rest) = volume.as_str().unwrap().split_once(':').unwrap();
                (source, rest.split(':').next().unwrap())
            })
            .collect()
    }

    /// The ports inside that are published.
    pub fn published(self) -> Vec<&'a str> {
        let ports = self.value["ports"].as_sequence().into_iter().flatten();
        ports.map(|port| port.as_str().unwrap().rsplit(':').next().unwrap()).collect()
    }

    pub fn stop_grace_period(self) -> Duration {
        let text = self.value["stop_grace_period"].as_str().unwrap_or("10s");
        Duration::from_secs(text.strip_suffix('s').unwrap().parse().unwrap())
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        other => panic!("{other:?} is no scalar"),
    }
}

/// .env as `init.sh` makes it.
pub fn made_env(folder: &std::path::Path) -> BTreeMap<String, String> {
    let path = folder.join("made.env");
    output(Command::new(self::folder().join("init.sh")).arg(&path));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn fill_in(value: &mut Value, variables: &BTreeMap<String, String>) {
    match value {
        Value::String(text) if text.contains('$') => *text = filled_in(text, variables),
        Value::Sequence(values) => values.iter_mut().for_each(|value| fill_in(value, variables)),
        Value::Mapping(values) => values.values_mut().for_each(|value| fill_in(value, variables)),
        _ => {}
    }
}

/// `${NAME:-default}` and `${NAME:?message}`.
fn filled_in(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut parts = text.split("${");
    let mut filled = parts.next().unwrap().to_owned();
    for part in parts {
        let (inside, rest) = part.split_once('}').unwrap();
        let (name, otherwise) = inside.split_once(':').unwrap_or((inside, ""));
        let set = variables.get(name).filter(|value| !value.is_empty());
        filled += &match (set, otherwise.strip_prefix('-')) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => default.to_owned(),
            (None, None) => panic!("{name} is not set: {otherwise}"),
        };
        filled += rest;
    }
    filled
}

/// The variables that the file names.
pub fn named_variables(text: &str) -> Vec<String> {
    let of_a_name = |c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    text.split("${").skip(1).map(|part| part.split(of_a_name).next().unwrap().to_owned()).collect()
}

#[test]
fn variables_are_filled_in_as_compose_does() {
    let variables = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("EMPTY".to_owned(), String::new())]);
    assert_eq!(filled_in("x${A:?no}-${B:-b}:${EMPTY:-e}", &variables), "x1-b:e");
    assert_eq!(named_variables("${A:?no} ${B_2:-b}"), ["A", "B_2"]);
}
