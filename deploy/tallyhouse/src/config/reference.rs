//! `tallyhouse config reference`: every variable of every program, from the definitions.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tallyhouse_ingest::config::settings::Variables as IngestVariables;
use tallyhouse_query_api::config::settings::Variables as QueryVariables;
use tallyhouse_service::config::AdminClient;
use tallyhouse_service::env::{Definition, VariablesFile, definitions};

use super::settings::{
    ForBackfill, ForBackup, ForErase, ForReplay, ForSchemas, ForStore, ForTopics, ForUp, RemoteUrl, ReplayKey,
};

/// A variable, and who reads it.
struct Entry {
    definition: Definition,
    readers: Vec<&'static str>,
}

/// What each program reads.
fn readers() -> [(&'static str, Vec<Definition>); 5] {
    let commands = [
        definitions::<ForBackfill>(),
        definitions::<ForBackup>(),
        definitions::<ForErase>(),
        definitions::<ForReplay>(),
        definitions::<ForSchemas>(),
        definitions::<ForTopics>(),
        definitions::<ReplayKey>(),
        definitions::<RemoteUrl>(),
        definitions::<AdminClient>(),
    ];
    [
        ("up", definitions::<ForUp>()),
        ("store", definitions::<ForStore>()),
        ("ingest", definitions::<IngestVariables>()),
        ("query-api", definitions::<QueryVariables>()),
        ("commands", commands.concat()),
    ]
}

fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (reader, definitions) in readers() {
        for definition in definitions {
            let place = *places.entry(definition.name.clone()).or_insert(entries.len());
            match entries.get_mut(place) {
                Some(entry) if entry.readers.last() != Some(&reader) => entry.readers.push(reader),
                Some(_) => {}
                None => entries.push(Entry { definition, readers: vec![reader] }),
            }
        }
    }
    let everywhere = definitions::<VariablesFile>().into_iter();
    entries.extend(everywhere.map(|definition| Entry { definition, readers: vec!["all"] }));
    entries
}

/// Every variable of every program.
#[cfg(test)]
pub(super) fn all() -> Vec<Definition> {
    entries().into_iter().map(|entry| entry.definition).collect()
}

const HEAD: &str = "\
# Configuration

Every variable of every program, made from the code by `tallyhouse config reference`; a test compares this file with it. `up`, `store` and the
commands are `tallyhouse`'s; `ingest` and `query-api` are programs of their own. What is not a secret is also a flag (`INGEST_ADDR`: `--ingest-addr`), and each
program's `--help` lists what it reads. A flag wins over the environment, and that over the file of `TALLYHOUSE_ENV_FILE` (`--env-file`). An empty variable counts as
not set.
";

/// The reference as Markdown.
pub fn markdown() -> String {
    let mut sections: Vec<(String, Vec<Entry>)> = Vec::new();
    for entry in entries() {
        let heading = &entry.definition.heading;
        match sections.iter_mut().find(|(found, _)| found == heading) {
            Some((_, entries)) => entries.push(entry),
            None => sections.push((heading.clone(), vec![entry])),
        }
    }
    let mut text = HEAD.to_owned();
    for (heading, mut entries) in sections {
        entries.sort_by(|one, other| one.definition.name.cmp(&other.definition.name));
        // Writing to a `String` cannot fail.
        let _ok = write!(
            text,
            "\n## {heading}\n\n| variable | default | takes | read by | meaning |\n|---|---|---|---|---|\n"
        );
        entries.iter().for_each(|entry| text.push_str(&row(entry)));
    }
    text
}

fn row(Entry { definition, readers }: &Entry) -> String {
    let (meaning, in_words) = match definition.meaning.split_once(" (default: ") {
        Some((meaning, default)) => (meaning, Some(default.trim_end_matches(')'))),
        None => (definition.meaning.as_str(), None),
    };
    let default = match (&definition.default, in_words) {
        (Some(value), _) => format!("`{value}`"),
        (None, Some(words)) => words.to_owned(),
        (None, None) => "none".to_owned(),
    };
    let words: Vec<String> = definition.words.iter().map(|word| format!("`{word}`")).collect();
    let takes = match &definition.bounds {
        Some(bounds) => bounds.clone(),
        None if definition.is_secret => "secret".to_owned(),
        None => words.join(", "),
    };
    format!(
        "| `{}` | {} | {} | {} | {} |\n",
        definition.name,
        cell(&default),
        cell(&takes),
        readers.join(", "),
        cell(meaning)
    )
}

/// Text that divides no cell and no row.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_the_code_defines() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configuration.md");
        let written = std::fs::read_to_string(path).unwrap();
        let made = markdown();
        let different = written.lines().zip(made.lines()).find(|(written, made)| written != made);
        assert!(
            written == made,
            "deploy/configuration.md is not what the code defines: `cargo run -q --bin tallyhouse config reference > deploy/configuration.md`; first difference: {different:#?}"
        );
    }

    #[test]
    fn a_row_has_default_bounds_unit_and_readers() {
        let made = markdown();
        let row = |name: &str| made.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap().to_owned();
        assert!(row("INGEST_BATCH_ROWS").contains("1 to 131072 rows | up, ingest |"), "{}", row("INGEST_BATCH_ROWS"));
        assert!(row("TALLYHOUSE_ENGINE").contains("`auto`, `library`, `server`"), "{}", row("TALLYHOUSE_ENGINE"));
        assert!(row("ADMIN_TOKEN").contains("| none | secret |"), "{}", row("ADMIN_TOKEN"));
        assert!(row("TALLYHOUSE_SHUTDOWN_DELAY_MS").contains("2,000, in development 0"), "{made}");
        let columns = made
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.replace("\\|", "").matches('|').count());
        assert!(columns.into_iter().all(|bars| bars == 6), "{made}");
    }
}
