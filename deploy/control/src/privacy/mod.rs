//! Erasures, and exports of what is kept about a person.
//!
//! # What an erasure does
//!
//! ```text
//! request -> job, with the keyed hashes of the ids -> 202
//! runner     suppressing    suppression recorded, and known to every process that stores events      (`suppression_acks`)
//!            deleting       days with rows are written down; raw rows and dead letters are deleted     (`tallyhouse_sql::erasure`)
//!            rebuilding     the rollups of those days are computed from raw again, behind the gate    (`tallyhouse_sql::rollups`)
//!                           cached answers of those days are invalidated: answers are right from here on
//!            removingFiles  the ids are forgotten; replaced parts leave the disk (8 min, `old_parts_lifetime`)
//!            done           signed report
//! ```
//!
//! **On a cluster** each shard has its own raw rows, rollups, dead letters and `privacy_subjects`; the job, suppressions and what processes know of
//! them are on the first. Every step is about all shards ([`tallyhouse_sql::AllShards`]): ids are written down on each, rows deleted on all at
//! once, rollups rebuilt on one after the other.
//!
//! **Before and after.** An event is *before* when it was received before the erasure was asked for, by the clock of the process that
//! received it; everything else is *after*. What is before is gone and never comes back: whoever stores events looks every record up
//! ([`suppressions`]), from Kafka, from the local log or from a gateway's spool, however often it is replayed. What is after is counted,
//! as of a person who was never seen before; with `keepSuppressed` it is dropped as well. Nothing is in between, so counts are exact
//! while events arrive.
//!
//! **What is not rewritten.** The local log, the spool, Kafka's topics and their dead-letter topic hold records from before until they
//! expire; the suppression covers them when they are read. The files of event ids hold hashes of ids of events, not of people. Rollups
//! older than raw events cannot be computed again: they hold no id, only states of keyed hashes, and the report names their days.
//!
//! **What is kept about the erasure.** A suppression is a keyed hash. The ids are in `privacy_subjects` for as long as the job needs
//! them, never in the text of a statement, in the job or in a log.
//!
//! # What can go wrong
//!
//! * Two ask for the same person at once: the job's name is made of the hashes, and creating it is compare-and-set; both get one job.
//! * The process is killed, or ClickHouse restarts: a step is written down before the next begins, and every step may be done again. One
//!   runner works at a time ([`tallyhouse_sql::lock`], which goes with its process); another process takes up where it stood.
//! * A batch was begun before the suppression was known: its rows are the same each time that it is sent, or a rollup that has them would
//!   count them again. The erasure waits until no such batch is under way anywhere. A process that is cut off or dead is not waited for
//!   for ever: what it stores of such a batch later it tells as a *leftover*, and the runner looks again ([`runner`]).
//! * A backup is restored: the runner looks for raw rows from before a suppression when it starts, each hour and on every leftover, and
//!   erases them again by their hash. A backup that is older than the suppression itself, with `control` in it, has to be erased from
//!   once more: nothing outside ClickHouse keeps suppressions but the copies of the snapshot, which go back with it.
//! * A dead letter is replayed: those of the person are deleted with the raw rows. One that a backup brings back, and that is replayed,
//!   is received anew and counts as a new event; discard restored dead letters.
//! * Inserts cannot be held back, or another rebuild is at work: rebuilding is tried again until it succeeds; until then rollups count the
//!   person and the job says so.
//! * The key under which ids are hashed is not known (`USER_HASH_KEY`): nothing is erased, 503.
//! * A shard of a cluster is away, or hangs: a step begins when all answer, so the job waits and names the shard. One that goes away within a
//!   step fails the step, which is done again on all of them but for rollups that were rebuilt.
//! * `CLICKHOUSE_URL` lists fewer shards than there are, or in another order: the job waits and says so. Nothing would be looked at on the others.
//! * A job waits for longer than its ids are kept (30 days): they are found again by their hashes, in raw rows.
//! * Tables are replicated: rollups cannot be rebuilt there, so erasures are refused, 501.

pub mod deletion;
pub mod documents;
pub mod erasure;
pub mod export;
pub mod feed;
pub mod hash_key;
mod hmac;
pub mod http;
pub mod report;
mod rounds;
pub mod runner;
mod steps;
pub mod suppressions;
mod sweep;
