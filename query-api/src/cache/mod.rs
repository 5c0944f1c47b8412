//! Answers are remembered for a short, fixed time: in this process, and in Redis when there is one.
//!
//! * An answer's end is set when it is computed and is never moved by reading it: a popular answer does not grow old.
//! * Errors are never remembered.
//! * The key holds the project, so one tenant's answer cannot reach another.
//! * Redis is a help, never a need: whatever is wrong with it counts as "not there" and costs at most a moment.

pub mod answers;
pub mod entry;
pub mod flight;
pub mod key;
pub mod memory;
pub mod shared;
pub mod ttl;

pub use answers::Answers;
pub use entry::Entry;
pub use key::Key;
pub use memory::Memory;
pub use shared::Shared;
