//! The control plane: projects, keys, schemas, grants, suppressions and jobs.
//!
//! ClickHouse keeps them, append-only; creating is compare-and-set. Each service holds a snapshot, and goes on with it while ClickHouse
//! is away.
