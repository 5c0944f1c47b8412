//! `tallyhouse backup`: copies of everything that an installation cannot make again, and the way back.
//!
//! ```text
//! create    positions in Kafka and the local log -> copy of the log -> BACKUP by ClickHouse -> position again -> checksums -> manifest, last
//! verify    every file of the manifest, of its base as well: is it there, as long, and with that checksum?
//! restore   verify -> what is there goes aside -> credentials -> RESTORE by ClickHouse -> migrations -> rollups that differ from raw are rebuilt
//!           -> erasures again -> the log, or the group in Kafka, is set back -> services start, and store what is not in the tables yet
//! ```
//!
//! **What a backup is of.** Everything that was acknowledged before `create` began is in it: stored in the tables, or in the copy of the log (or
//! in Kafka). ClickHouse copies its tables one after the other while events arrive, so they are of slightly different moments. Raw events are the
//! truth: after RESTORE the rollups are compared with them and rebuilt, and everything from the noted position on is stored again, except what raw
//! events have (`tallyhouse_ingest::direct::restored`, `tallyhouse_ingest::kafka::positions`).
//!
//! **Where.** ClickHouse writes to `BACKUP_DIR` alone, and nothing else that is secret is below `clickhouse/` there. The layout is the same in the
//! target (`BACKUP_TARGET`), another folder or a bucket:
//!
//! ```text
//! NAME/manifest.json                 what belongs to it, with checksums; written last: without it there is no backup
//! NAME/credentials                   0600: passwords and the key that people are hashed with
//! NAME/ingest/log/…                  what was not stored
//! clickhouse/NAME/…                  what BACKUP wrote
//! ```
//!
//! **A given ClickHouse** writes its tables where `BACKUP_CLICKHOUSE` says: a disk or a bucket of its own configuration. What it wrote there is not in
//! the manifest, and only a restore reads it.
//!
//! **Incremental** means: what has changed since the last full one. Two backups are enough for any restore.
//!
//! Failure cases:
//! * killed, or no room: no manifest, so it is not listed; the next `create` removes what is left, in a target that
//!   other machines may use after 24 hours;
//! * a file is cut, changed or gone: `verify` names it, and `restore` refuses before it touches anything;
//! * the target is not there: said at once, before anything is copied. A folder is not made: it may be a disk that is not mounted;
//! * something is there already: refused, unless `--replace --yes-replace`; then it is kept aside until the restore has ended, and comes back when
//!   it fails;
//! * tables of a given ClickHouse are replaced: nothing of them is kept, so it has to read a small table of the backup first;
//! * a manifest that is damaged or newer: `create` and `--keep` pass over it, and say so;
//! * ClickHouse hangs: stopped after four hours;
//! * two at once: the second is refused.

pub mod create;
mod error;
mod files;
mod folder;
pub mod manifest;
pub mod restore;
mod s3;
mod tables;
mod target;
pub mod verify;

pub use error::BackupError;
pub use tables::Destination;
pub use target::Target;
