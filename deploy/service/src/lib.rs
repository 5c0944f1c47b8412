//! Shared by all Tallyhouse services, without domain logic: configuration that names its variables, secrets that do not
//! print, API keys, JSON logs, Prometheus metrics and health on an admin port, and a shutdown with a budget.

pub mod access;
pub mod admin;
pub mod admin_guard;
pub mod breaker;
pub mod changed_days;
pub mod clock;
pub mod config;
pub mod cors;
pub mod day_versions;
pub mod documents;
pub mod env;
pub mod health;
pub mod http;
pub mod http_body;
pub mod http_client;
pub mod lifecycle;
mod log_file;
pub mod memory;
pub mod metrics;
pub mod observe;
mod per_second;
pub mod private_file;
pub mod probe;
pub mod rate_limit;
mod redact;
pub mod redis;
pub mod retry;
pub mod secret;
pub mod server;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod trace_export;
