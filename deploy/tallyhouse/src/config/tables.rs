//! Compares the tables of variables in the READMEs with the definitions.

use std::collections::BTreeMap;
use std::path::Path;

use tallyhouse_service::env::{Definition, NAMES};

use super::reference::all;

const HEAD: &str = "| variable | default | meaning |";

/// The variables of a README's tables with their defaults, which are as many as the names, or one for all of them.
fn rows(text: &str) -> Vec<(String, String)> {
    let table = text.split(HEAD).skip(1).flat_map(|rest| rest.lines().skip(2).take_while(|line| line.starts_with('|')));
    table
        .flat_map(|line| {
            let cells: Vec<&str> = line.split(" | ").collect();
            let names = cells[0].trim_start_matches("| ").split(", ").map(|name| name.trim_matches('`').to_owned());
            let names: Vec<String> = names.collect();
            let mut defaults: Vec<&str> = cells[1].split(", ").collect();
            if defaults.len() != names.len() {
                defaults = vec![cells[1]; names.len()];
            }
            names.into_iter().zip(defaults.into_iter().map(plain)).collect::<Vec<_>>()
        })
        .collect()
}

/// `16 MiB` and `1,000` as they are set, without marks.
fn plain(default: &str) -> String {
    let text = default.replace('`', "");
    let number = |text: &str| text.replace(',', "").parse::<u64>().ok();
    let sized = text.split_once(' ').and_then(|(size, unit)| {
        let unit = match unit {
            "KiB" => 1_u64 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        Some(number(size)? * unit)
    });
    sized.or_else(|| number(&text)).map_or(text, |number| number.to_string())
}

/// A default that is worked out is told in words: `(default: generated)`.
fn default_of(definition: &Definition) -> String {
    let in_words =
        || Some(definition.meaning.split_once("(default: ")?.1.strip_suffix(')')?.trim_matches('`').to_owned());
    definition.default.clone().or_else(in_words).unwrap_or_else(|| "none".to_owned())
}

fn documented() -> BTreeMap<String, Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for readme in ["deploy/README.md", "ingest/README.md", "query-api/README.md"] {
        let rows = rows(&std::fs::read_to_string(root.join(readme)).unwrap());
        assert!(!rows.is_empty(), "{readme}");
        rows.into_iter().for_each(|(name, default)| found.entry(name).or_default().push(default));
    }
    found
}

#[test]
fn each_variable_is_in_one_table_with_its_default() {
    let documented = documented();
    let mut wrong = Vec::new();
    for definition in all() {
        let expected = vec![default_of(&definition)];
        let found = documented.get(&definition.name);
        if found != Some(&expected) {
            wrong.push(format!("{}: {expected:?} is documented as {found:?}", definition.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_table_has_a_variable_that_is_not_defined() {
    let defined: Vec<String> = all().into_iter().map(|definition| definition.name).collect();
    let strange: Vec<_> = documented().into_keys().filter(|name| !defined.contains(name)).collect();
    assert_eq!(strange, <[String; 0]>::default());
}

#[test]
fn the_names_that_every_program_knows_are_those_that_are_defined() {
    let mut defined: Vec<String> = all().into_iter().map(|definition| definition.name).collect();
    defined.sort();
    assert_eq!(defined, NAMES);
}

#[test]
fn secrets_have_no_flags() {
    let secrets: Vec<String> =
        all().into_iter().filter(|definition| definition.is_secret).map(|definition| definition.name).collect();
    // The names of files, which may be seen.
    let is_file = |name: &str| ["TLS_KEY", "CLIENT_KEY"].iter().any(|word| name.ends_with(word));
    let words = ["PASSWORD", "KEY", "TOKEN", "SECRET", "REDIS_URL", "OPTIONS", "HEADERS"];
    let is_secret = |name: &str| words.iter().any(|word| name.ends_with(word)) && !is_file(name);
    let expected: Vec<&str> = NAMES.iter().copied().filter(|name| is_secret(name)).collect();
    let mut secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    secrets.sort_unstable();
    assert_eq!(secrets, expected);
}

#[test]
fn each_number_has_bounds_and_a_unit() {
    for definition in all() {
        let is_number = definition.default.as_ref().is_some_and(|default| default.parse::<u64>().is_ok());
        assert!(!is_number || definition.bounds.is_some(), "{}", definition.name);
        assert!(!definition.meaning.is_empty(), "{}", definition.name);
        let unit =
            ["_MS", "_BYTES", "_HOURS", "_DAYS", "_PERCENT"].into_iter().find(|end| definition.name.ends_with(end));
        if let Some(unit) = unit {
            let unit = unit.trim_start_matches('_').to_lowercase();
            assert!(definition.bounds.as_ref().is_some_and(|bounds| bounds.ends_with(&unit)), "{}", definition.name);
        }
    }
}
