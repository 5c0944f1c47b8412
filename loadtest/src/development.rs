//! The project of development mode, and its keys.

/// The project of development mode, which every command here works on.
pub const PROJECT: &str = "demo";

/// Its key for sending events, which may import history.
pub const INGEST_KEY: &str = "demo-ingest-key";

/// Its key for reading metrics.
pub const QUERY_KEY: &str = "demo-query-key";

/// Keys of the second project of development mode, `guest`: of whoever attacks.
pub const ATTACKER_INGEST_KEY: &str = "guest-ingest-key";
pub const ATTACKER_QUERY_KEY: &str = "guest-query-key";
