//! Load, proof and measurement of Tallyhouse from outside: everything here speaks the public HTTP API as a customer's SDK
//! would, and looks into ClickHouse only to check what was promised.
//!
//! * [`feed`] streams a real data set in, [`chart`] reads it back.
//! * [`kills`] and [`outage`] break a system of their own ([`system`]) under load and compare what is stored with what the
//!   clients know ([`ledger`], [`verify`]).
//! * [`siege`] plays every attack that was tried beside somebody else's load.
//! * [`mod@poison`] mixes in events that the store refuses for good.
//! * [`chaos`] breaks a whole fleet with Kafka ([`brokers`]) in every way and compares.
//! * [`rolling`] restarts a fleet behind nginx, instance by instance, under load.
//! * [`degrade`] measures how reading holds up when something goes wrong.
//! * [`collector`] takes traces and remembers them.
//! * [`mod@bench`] measures throughput, latency, freshness and memory in one run, [`trickle`] what little traffic costs,
//!   [`watched`] what traces and metrics cost, [`reduction`] how much smaller rollups are than what they count.
//!
//! The load generator shares the machine with what it loads, so it is kept cheap: bodies are rendered beforehand, one
//! connection per worker, no work per event while the clock runs.

pub mod backlog;
pub mod bench;
pub mod brokers;
pub mod certificates;
pub mod chaos;
pub mod chart;
pub mod clickhouse;
pub mod client;
pub mod collector;
pub mod credentials;
pub mod daemon;
pub mod degrade;
pub mod development;
pub mod feed;
pub mod flight;
pub mod generate;
pub mod kills;
pub mod ledger;
pub mod outage;
pub mod poison;
pub mod ports;
pub mod process;
pub mod reads;
pub mod redis;
pub mod reduction;
pub mod relay;
pub mod rolling;
pub mod siege;
pub mod system;
pub mod tls;
pub mod trickle;
pub mod verify;
pub mod watched;
pub mod writers;
