//! What an event is, what makes it valid, and what it is counted by.
//!
//! Pure: no I/O, no clock, no async runtime. The caller passes the bytes and the time. In the order of the flow:
//! [`body`] splits a request, [`raw`] reads one event, [`normalise`] makes it an [`event::Event`], [`wire`] encodes it.
#![warn(missing_docs)]

pub mod body;
pub mod catalogue;
pub mod consent;
pub mod dimension;
pub mod event;
pub mod json_schema;
pub mod limits;
pub mod normalise;
pub mod number;
pub mod project;
pub mod property;
pub mod raw;
pub mod rejection;
pub mod rollup;
mod shape;
pub mod strict_json;
mod text;
pub mod time;
pub mod user_hash;
mod value;
pub mod warning;
pub mod wire;

pub use catalogue::Catalogue;
pub use dimension::DimSet;
pub use event::Event;
pub use rejection::Rejection;
pub use rollup::Rollup;
pub use warning::{Warning, Warnings};
