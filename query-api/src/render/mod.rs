//! From rows to JSON. An answer is rendered once, when it is computed; [`complete`] appends what differs between readers (age,
//! cache status, elapsed time).

pub mod accuracy;
pub mod cut;
pub mod json;
pub mod meta;
pub mod report;
pub mod series;
pub mod structured;
pub mod table;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tallyhouse_sql::hex;

use crate::cache::{Entry, Rendered};
use crate::store::Cost;
use crate::warning::Warning;
use meta::{About, Ending, Meta, Work};

/// Joins data, a JSON object, and what is told of it into one answer whose meta is left open; `own` are the fields that
/// answers of its kind add. The tag is of everything but when it was computed.
pub(crate) fn assemble(data: &str, about: &About<'_>, own: &impl Serialize) -> Rendered {
    let meta = Meta::of(about, own);
    let mut told = serde_json::to_value(&meta).unwrap_or_default();
    if let Some(fields) = told.as_object_mut() {
        fields.remove("generated_at");
    }
    let digest = Sha256::digest(format!("{data}{told}"));
    let tag = hex(digest.get(..16).unwrap_or_default());
    let head = format!("{},\"meta\":{}", opened(data), opened(&json::text(&meta)));
    Rendered {
        head: Bytes::from(head),
        etag: format!("W/\"{tag}\""),
        oldest_ms: None,
        seen_ms: None,
        is_partial: false,
    }
}

/// Says in `meta` what ClickHouse read for an answer.
pub(crate) fn with_cost(rendered: Rendered, cost: &Cost) -> Rendered {
    let work = json::text(&Work::from(cost));
    let head = [rendered.head.as_ref(), b",", opened(&work).trim_start_matches('{').as_bytes()].concat().into();
    Rendered { head, is_partial: cost.is_partial, ..rendered }
}

/// The tag of an answer and of the warnings that come with it, which are not part of what is remembered.
pub fn tagged(etag: &str, warnings: &[Warning]) -> String {
    if warnings.is_empty() {
        return etag.to_owned();
    }
    let sum = crc32fast::hash(json::text(&warnings).as_bytes());
    format!("{}-{sum:08x}\"", etag.trim_end_matches('"'))
}

/// A JSON object without its last brace.
fn opened(object: &str) -> &str {
    object.strip_suffix('}').unwrap_or(object)
}

/// The whole body for one reader.
pub fn complete(entry: &Entry, ending: &Ending) -> Bytes {
    let ending = json::text(ending);
    [entry.head.as_ref(), b",", ending.trim_start_matches('{').as_bytes(), b"}"].concat().into()
}
