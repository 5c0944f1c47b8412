//! Batches: filled column by column as events arrive, closed by rows, bytes or age, never changed afterwards.

mod builder;
mod cells;

pub use builder::{Builder, Encoded, Source};
