//! The gate before the routes of a service: who asks, and whether they may.
//!
//! ```text
//! request -> rule of the route -> credentials in the head, else (beacons) in the body -> key | token -> Principal -> has it the right?
//!            none: 403                                                                                                  -> Caller -> handler
//! ```
//!
//! One gate is in front of every public router. It refuses what no rule permits, hands the `Caller` to the handler, and takes a key out of the URL
//! and out of the body, so that nothing behind it can log or store one. What it refuses is counted by its code, and never logged.
//!
//! Failure cases:
//! * ClickHouse is away: keys are those of the last snapshot; one that is not in it is unknown (503 while there is no snapshot at all);
//! * the identity provider is away: see [`tokens`](tallyhouse_service::access::tokens);
//! * bodies of beacons come slowly, to hold what reading them takes: they are few at a time, short, and have a deadline.

mod beacon;
mod gate;
mod lease;

pub use gate::{Gate, allows_origin};
pub use lease::Lease;
