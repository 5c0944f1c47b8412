//! The read path of Tallyhouse: metrics, dashboards and reports over the rollups.
//!
//! ```text
//! HTTP -> authorize -> Params -> Query -> Plan -> cache (memory -> single flight -> Redis) -> ClickHouse -> render -> Answer
//! ```
//!
//! [`serve`] spells out the flow. [`request`] reads queries and [`plan`] decides what is read; both are pure. [`sql`] writes the
//! statements, [`execute`] reads and renders, [`store`] queries ClickHouse when [`admission`] permits it. [`adhoc`] (analysts' SQL,
//! exports) and [`live`] (streams) stand beside, behind the same authorization and admission. `.ci/layers.txt` lists which module
//! may use which. Nothing below [`authorize`] accepts a project that did not come from a `Scope`.

pub mod adhoc;
pub mod admission;
pub mod anomalies;
pub mod asked;
pub mod authorize;
pub mod cache;
pub mod cached_query;
pub mod canary;
pub mod clock;
pub mod condition;
pub mod config;
pub mod coverage;
pub mod deps;
pub mod drift;
mod erasures;
pub mod event_types;
pub mod execute;
pub mod funnels_retention;
pub mod http;
pub mod live;
pub mod metric_definitions;
pub mod observed;
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
pub mod warm_start;
pub mod warning;

pub use config::Config;
pub use deps::Deps;
pub use run::{Listeners, RunError, run};
