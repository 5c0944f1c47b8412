//! What events of each type are, at run time: registered by projects, live in every process.
//!
//! ```text
//! file or request -> read, compile -> compare with the version in force -> create version n + 1 -> every process, within 2 s
//!                                                                                                    '-> LiveCatalogue, per project
//! ```
//!
//! Which declaration of a type is in force for a project: the project's own; else the installation's; else the one of the folder
//! `TALLYHOUSE_SCHEMAS` or the built-in one ([`seeds`]). A declaration that was taken away is in force too: nothing is declared.
//!
//! * **Processes learn of a change at different times**, within 5 seconds. Events that two of them take meanwhile are decided by two
//!   versions; both are right. Only a process that takes events decides; what reads the log or Kafka finds the decision in the event.
//! * **A dimension starts when it is declared.** Rows of its rollups exist from then on; `since` says so, and `tallyhouse rollups backfill`
//!   counts what raw events still hold; once it has counted them all, `since` is taken out. A dimension that is taken away and declared
//!   again starts again.
//! * **A change is never half in force**: readers hold the whole catalogue of a project, and plan each question with one.

pub mod live;
pub mod register;
pub mod seeds;

pub use live::{Catalogues, InForce, Level, LiveCatalogue};
pub use register::{Proposal, Registered, SchemaError, Who, counted, delete, propose, register};
pub use seeds::Seeds;
