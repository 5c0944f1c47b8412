//! What is durable on this machine's disk because the place where it belongs is away.
//!
//! ```text
//! put -> group -> file: header, bytes (write, fsync, rename, fsync folder) -> durable … drain, oldest first -> removed
//! ```
//!
//! A file is written once and never changed. Bounded by bytes and by age: when it is full, events are refused before they are
//! taken; nothing in it is ever dropped.
//!
//! Failure cases:
//! * died while writing: `*.part` - nobody was told that it is durable; removed at the next start;
//! * died later: the file is drained after the next start;
//! * a file that is cut or has a flipped bit: set aside as `*.damaged`, counted and named in the log; the others go on;
//! * the disk is full, or refuses to write or sync: whoever asked is refused;
//! * a drained file cannot be removed: removal is repeated, loudly; until then nothing newer is drained.

pub mod folder;
pub mod records;
pub mod shelf;
