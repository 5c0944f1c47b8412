//! What watches a running system, used as it is shipped: rules, dashboards, runbooks.
//!
//! ```text
//! rules       deploy/prometheus, by promtool, and loaded by a real Prometheus that scrapes a running system
//! files       reads the files of `deploy/`; names of metrics in expressions
//! prometheus  starts Prometheus
//! system      a running system that is scraped and asked
//! ```

mod files;
mod prometheus;
mod rules;
mod system;
