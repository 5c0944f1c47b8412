//! The control plane: projects, keys, schemas, grants, suppressions and jobs.
//!
//! ClickHouse keeps them, append-only; creating is compare-and-set ([`store`]). Each service holds a snapshot ([`handle`]), and goes on
//! with it while ClickHouse is away.
//!
//! ```text
//! operation -> create(version n + 1) -> ClickHouse -> every process, within 2 s: Snapshot -> keys, projects, what others derive
//!                                                                                   '-> its copy on the disk
//! ```

pub mod access;
pub mod audit;
pub mod config;
pub mod handle;
pub mod hot_questions;
pub mod http;
pub mod key_text;
pub mod key_use;
pub mod kind;
pub mod operations;
pub mod privacy;
pub mod records;
pub mod schemas;
pub mod snapshot;
mod sql;
pub mod store;
pub mod time;

pub use handle::{Control, ControlOptions};
pub use kind::Kind;
pub use schemas::LiveCatalogue;
pub use snapshot::{FixedKey, FixedKeys, Key, KeyError, Snapshot};
pub use store::{ControlError, ControlStore, New};
