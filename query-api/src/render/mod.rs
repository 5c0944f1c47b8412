//! From rows to JSON. An answer is rendered once, when it is computed; what differs from one reader to the next (age,
//! cache status, time taken) is appended by [`complete`].

pub mod json;
pub mod report;
pub mod series;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cache::Entry;
use crate::serve::CacheStatus;

/// An answer without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The JSON, its `meta` left open.
    pub head: Bytes,
    /// Weak entity tag of what was asked and found; when and from where is not part of it.
    pub etag: String,
}

/// Joins data and meta, both JSON objects, into one answer whose meta is left open. The tag is of the data alone.
pub(crate) fn assemble(data: &str, meta: &impl Serialize) -> Rendered {
    let digest = Sha256::digest(data.as_bytes());
    let tag = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
    let head = format!("{},\"meta\":{}", opened(data), opened(&json::text(meta)));
    Rendered { head: Bytes::from(head), etag: format!("W/\"{tag}\"") }
}

/// A JSON object without its last brace.
fn opened(object: &str) -> &str {
    object.strip_suffix('}').unwrap_or(object)
}

/// The whole body for one reader.
pub fn complete(entry: &Entry, status: CacheStatus, now_ms: i64, elapsed_ms: f64) -> Bytes {
    let end = format!(
        ",\"cache\":{{\"status\":\"{}\",\"age_s\":{},\"ttl_s\":{}}},\"elapsed_ms\":{elapsed_ms:.3}}}}}",
        status.label(),
        entry.age_s(now_ms),
        entry.remaining_s(now_ms),
    );
    [entry.head.as_ref(), end.as_bytes()].concat().into()
}
