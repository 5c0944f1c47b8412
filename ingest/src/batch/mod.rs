//! Batches: filled column by column as events arrive, closed by rows, bytes or age, never changed afterwards.

mod builder;
mod cells;
mod ids;

pub use builder::{Builder, Encoded, Source};
pub use ids::{EventKey, KeyHasher};
pub(crate) use ids::{Identity, NumberSet};
