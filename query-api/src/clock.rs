//! The clock and random numbers as parameters, so that tests can set both.

use std::sync::Arc;

/// The present, in milliseconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Random numbers from 0 to 1, for jitter.
pub type Random = Arc<dyn Fn() -> f64 + Send + Sync>;
