//! The programs of the workspace. For a test cargo builds those of its own crate, so the others must be there already.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tallyhouse_service::env::{Env, ProcessEnv};

/// `tallyhouse`, as it is in the sources.
pub fn tallyhouse() -> PathBuf {
    program("tallyhouse", "")
}

/// `tallyhouse`, as what starts the embedded ClickHouse: a change to other crates does not make it too old for that.
pub fn engine() -> PathBuf {
    program("tallyhouse", "/deploy/tallyhouse/src/")
}

/// `ingest`, as it is in the sources.
pub fn ingest() -> PathBuf {
    program("ingest", "")
}

/// `query-api`, as it is in the sources.
pub fn query_api() -> PathBuf {
    program("query-api", "")
}

/// Where this test program's own build puts what tests write.
pub(crate) fn temporary() -> PathBuf {
    profile().with_file_name("tmp")
}

/// `target/debug`, or the folder of another profile: test programs are in `deps` there.
fn profile() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// Fails with the command that builds it when it is not there, or older than a source with `part` in its path.
fn program(name: &str, part: &str) -> PathBuf {
    // Cargo sets it to what it has just built.
    if let Some(program) = ProcessEnv.get(&format!("CARGO_BIN_EXE_{name}")) {
        return program.into();
    }
    let program = profile().join(name);
    if let Some(why) = outdated(&program, part) {
        let flags = match profile().file_name().and_then(|profile| profile.to_str()) {
            Some("debug") => String::new(),
            Some("release") => " --release".to_owned(),
            other => format!(" --profile {}", other.unwrap()),
        };
        panic!(
            "{why}: run `cargo build{flags} --bin tallyhouse --bin ingest --bin query-api` first, as `make test` does"
        );
    }
    program
}

fn outdated(program: &Path, part: &str) -> Option<String> {
    let Some(built) = changed(program) else { return Some(format!("{} is not there", program.display())) };
    // `cargo build` writes `program: source source` beside it; a space in a path is `\ `.
    let list = program.with_extension("d");
    let Ok(sources) = std::fs::read_to_string(&list) else {
        return Some(format!("without {} nobody knows whether {} is too old", list.display(), program.display()));
    };
    let sources = sources.replace("\\ ", "\0");
    let mut sources = sources.split_whitespace().skip(1).map(|source| source.replace('\0', " "));
    let newer = sources.find(|source| source.contains(part) && changed(source.as_ref()) > Some(built))?;
    Some(format!("{} is older than {newer}", program.display()))
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|found| found.modified()).ok()
}
