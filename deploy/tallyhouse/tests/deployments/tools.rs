//! Where files and the tools of `setup.sh --tests` are.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A file of `deploy/`.
pub fn read(path: &str) -> String {
    let path = root().join("deploy").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A tool that `setup.sh --tests` builds with Go, or `None`, told by the test's name.
pub fn tool_or_skip(test: &str, name: &str) -> Option<PathBuf> {
    let path = root().join(".setup/go/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    skip(test, &format!("it needs {name}, which `deploy/tallyhouse/setup.sh --tests` builds where Go is installed"));
    None
}

/// Says that a test, or a part of it, was left out.
#[allow(clippy::explicit_write, reason = "`eprintln!` is shown of tests that fail alone")]
pub fn skip(test: &str, why: &str) {
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").unwrap();
}

/// What a command prints, which must succeed.
pub fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout
}
