//! Patterns, by an engine that runs in linear time.

use jsonschema::PatternOptions;
use regex::{Regex, RegexBuilder};

use crate::limits::MAX_TEXT_BYTES;

/// The longest pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1_000;

/// What a compiled pattern may take, in bytes. It bounds the time of each character too: `(a{1,99}){1,99}` does not fit.
const COMPILED_BYTES: usize = 32 * 1024;

/// What the engine may remember of a pattern, in bytes.
const REMEMBERED_BYTES: usize = 256 * 1024;

/// The longest text that a pattern is run on. Longer ones are cut when they are kept.
pub(super) const MAX_MATCHED_BYTES: usize = MAX_TEXT_BYTES;

/// Compiles a pattern, as ECMA 262 writes them.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(format!("the pattern has {} bytes, at most {MAX_PATTERN_BYTES} are taken", pattern.len()));
    }
    let unsupported =
        "the pattern cannot be run in linear time, or is none: use neither look-around nor back references";
    let translated = jsonschema_regex::to_rust_regex(pattern).map_err(|()| unsupported.to_owned())?;
    RegexBuilder::new(&translated).size_limit(COMPILED_BYTES).dfa_size_limit(REMEMBERED_BYTES).build().map_err(
        |error| match error {
            regex::Error::CompiledTooBig(_) => {
                format!(
                    "the pattern is too large: compiled it would have more than {COMPILED_BYTES} bytes; repeat fewer times"
                )
            }
            _ => unsupported.to_owned(),
        },
    )
}

/// The same engine and bounds, within the crate.
pub(super) fn options() -> PatternOptions<jsonschema::Regex> {
    PatternOptions::regex().size_limit(COMPILED_BYTES).dfa_size_limit(REMEMBERED_BYTES)
}
