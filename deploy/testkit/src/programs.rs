//! The programs of the workspace. Cargo builds those of the tested crate only, so the others must be there already.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
    // Cargo writes `program: source source` beside it; a space in a path is `\ `.
    let (Some(built), Ok(list)) = (changed(program), std::fs::read_to_string(program.with_extension("d"))) else {
        return Some(format!("{} is not there", program.display()));
    };
    let list = list.replace("\\ ", "\0");
    let sources = list.split_whitespace().skip(1).map(|source| source.replace('\0', " "));
    let newer = sources.filter(|source| source.contains(part)).find(|source| changed(source.as_ref()) > Some(built))?;
    Some(format!("{} is older than {newer}", program.display()))
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|found| found.modified()).ok()
}
