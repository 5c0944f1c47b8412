//! What watches a running system, used as it is shipped: rules, dashboards, runbooks.
//!
//! ```text
//! rules       deploy/prometheus, by promtool, and loaded by a real Prometheus that scrapes a running system
//! dashboards  deploy/grafana: expanded as the datasource does, asked over HTTP and by the datasource's driver
//! account     who asks
//! files       reads the files of `deploy/`; names of metrics in expressions
//! prometheus  starts Prometheus
//! runbook     reads runbooks and runs their commands
//! runbooks    breaks systems, and follows the runbooks
//! system      a running system that is scraped and asked
//! ```

mod account;
mod dashboards;
mod files;
mod prometheus;
mod rules;
mod runbook;
mod runbooks;
mod system;
