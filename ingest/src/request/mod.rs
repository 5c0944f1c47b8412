//! What a request is, before its events are read.

pub mod body;
pub mod error;
