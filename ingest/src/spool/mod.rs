//! Files of versions without a log: batches (`journal`), and records for Kafka (`records`). They are read once, at the first start after an
//! upgrade.

pub mod folder;
