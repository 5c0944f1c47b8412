//! The read path of Tallyhouse: metrics, dashboards and reports over the rollups.
//!
//! ```text
//! HTTP -> authorize -> Params -> Query -> Plan -> cache (memory -> flight -> Redis) -> ClickHouse -> render -> Answer
//! ```
//!
//! [`serve`] spells the flow; [`plan`] decides what is read and is pure; [`execute`] reads it; [`sql`] holds its SQL;
//! [`store`] asks ClickHouse, when [`admission`] lets it; [`adhoc`] passes on what analysts and exports ask, through the same
//! doors. Nothing below [`authorize`] accepts a project that did
//! not come from a `Scope`.
#![warn(missing_docs)]

pub mod adhoc;
pub mod admission;
pub mod anomalies;
pub mod authorize;
pub mod cache;
pub mod cached_query;
pub mod clock;
pub mod condition;
pub mod config;
pub mod coverage;
pub mod deps;
pub mod event_types;
pub mod execute;
pub mod funnels_retention;
pub mod http;
pub mod live;
pub mod metric_definitions;
pub mod plan;
pub mod problem;
pub mod registry;
pub mod render;
pub mod request;
pub mod run;
pub mod serve;
pub mod sql;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod warning;

pub use config::Config;
pub use deps::Deps;
pub use run::{Listeners, RunError, run};
