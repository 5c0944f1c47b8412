//! A computed answer, before it is cached.

use bytes::Bytes;

/// An answer without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The JSON, its `meta` left open.
    pub head: Bytes,
    /// Weak entity tag of what was asked and found; when and from where is not part of it.
    pub etag: String,
    /// When the oldest remembered part of it was read, in milliseconds since the epoch; `None` when all was read for it.
    pub oldest_ms: Option<i64>,
    /// Up to when it counts what happens, in milliseconds since the epoch: when the oldest part was read that was not over then.
    pub seen_ms: Option<i64>,
    /// Whether a shard of the cluster did not answer: it is given to who waits for it, and not remembered.
    pub is_partial: bool,
}
