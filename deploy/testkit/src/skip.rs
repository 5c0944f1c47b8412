//! Skips tests, never silently.

use std::io::Write;

/// Says that a test was left out.
#[allow(clippy::explicit_write, reason = "`eprintln!` is shown of tests that fail alone")]
pub fn skipped(test: &str, why: &str) {
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").unwrap();
}
