//! From rows to JSON. An answer is rendered once, when it is computed; what differs from one reader to the next (age,
//! cache status, time taken) is appended by [`complete`].

pub mod json;
pub mod report;
pub mod series;
pub mod structured;
pub mod table;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cache::Entry;
use crate::serve::CacheStatus;
use crate::store::Cost;

/// An answer without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The JSON, its `meta` left open.
    pub head: Bytes,
    /// Weak entity tag of what was asked and found; when and from where is not part of it.
    pub etag: String,
    /// When the oldest remembered part of it was read, in milliseconds since the epoch; `None` when all was read for it.
    pub oldest_ms: Option<i64>,
}

impl Rendered {
    /// Says in `meta` what ClickHouse read for it.
    pub fn with_cost(mut self, cost: &Cost) -> Self {
        let read = format!(",\"rows_read\":{},\"bytes_read\":{}", cost.rows_read, cost.bytes_read);
        self.head = [self.head.as_ref(), read.as_bytes()].concat().into();
        self
    }
}

/// Joins data and meta, both JSON objects, into one answer whose meta is left open. The tag is of both but for when
/// it was computed.
pub(crate) fn assemble(data: &str, meta: &impl Serialize) -> Rendered {
    let mut told = serde_json::to_value(meta).unwrap_or_default();
    if let Some(fields) = told.as_object_mut() {
        fields.remove("generated_at");
    }
    let digest = Sha256::digest(format!("{data}{told}"));
    let tag = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
    let head = format!("{},\"meta\":{}", opened(data), opened(&json::text(meta)));
    Rendered { head: Bytes::from(head), etag: format!("W/\"{tag}\""), oldest_ms: None }
}

/// A JSON object without its last brace.
fn opened(object: &str) -> &str {
    object.strip_suffix('}').unwrap_or(object)
}

/// The whole body for one reader.
pub fn complete(entry: &Entry, status: CacheStatus, now_ms: i64, elapsed_ms: f64) -> Bytes {
    let reason = match status {
        CacheStatus::Stale(reason) => format!(",\"stale_reason\":\"{}\"", reason.label()),
        CacheStatus::Hit | CacheStatus::Miss | CacheStatus::Coalesced => String::new(),
    };
    let end = format!(
        ",\"cache\":{{\"status\":\"{}\",\"age_s\":{},\"ttl_s\":{}{reason}}},\"elapsed_ms\":{elapsed_ms:.3}}}}}",
        status.label(),
        entry.age_s(now_ms),
        entry.remaining_s(now_ms),
    );
    [entry.head.as_ref(), end.as_bytes()].concat().into()
}
