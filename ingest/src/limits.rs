//! What requests, batches and deduplication windows may hold. Plain values: [`crate::config`] reads them.

use std::time::Duration;

/// What one request may hold, and all of them together.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// `INGEST_BODY_BYTES`: a body as sent.
    pub body_bytes: usize,
    /// `INGEST_DECODED_BYTES`: a body after decompression.
    pub decoded_bytes: usize,
    /// `INGEST_OPEN_BYTES`: bodies being worked on at a time; a request that does not fit is refused.
    pub open_bytes: usize,
    /// `INGEST_ACK_TIMEOUT_MS`: from the last byte of its body on, how long a request may wait in all: for a thread, for Kafka, and until its
    /// events are durable, or stored with `?wait=stored`.
    pub ack_timeout: Duration,
    /// Reading a body may take this long: a client that trickles must not hold memory. Not configurable.
    pub read_timeout: Duration,
}

/// When a batch is closed, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// `INGEST_BATCH_ROWS`
    pub rows: usize,
    /// `INGEST_BATCH_BYTES`: encoded.
    pub bytes: usize,
    /// `INGEST_LINGER_MS`: how long a batch waits for company when nothing else holds it back.
    pub linger: Duration,
    /// `INGEST_INSERTS`: inserts at a time, of a consumer's partitions. With one, two cores wait for commits; more cores want more.
    pub inserts: usize,
    /// One attempt of an insert. Not configurable.
    pub insert_timeout: Duration,
    /// `REFUSED_GRACE_MS`: how long batches of which ClickHouse refuses most, but not every event, wait before these are
    /// dead letters; and how long it may refuse every event before the service is not ready.
    pub refused_grace: Duration,
}

/// The window in which a repeated event id is a duplicate.
#[derive(Debug, Clone, Copy)]
pub struct DedupLimits {
    /// `DEDUP_WINDOW_HOURS`
    pub window: Duration,
    /// `DEDUP_WINDOW_IDS`: the bound on memory, 29 bytes an id. When it is reached first, the window is shorter.
    pub ids: usize,
}
