//! Asks ClickHouse how it is, for metrics: one cheap statement, [`vitals::read`], every 15 s to each server.
//!
//! Failure cases: a server does not answer, hangs, or refuses (`system` may not be read): every gauge of it but `tallyhouse_clickhouse_up` goes, so that
//! nobody looks at figures of before. Each process that inserts asks; one that only takes events or answers questions does not, because its user
//! may not.

use std::time::Duration;

use futures_util::future::join_all;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::{Shards, vitals};
use tokio::time::{MissedTickBehavior, interval};

use crate::telemetry::ClickHouseMetrics;

const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Never ends.
pub(crate) async fn watch(shards: Shards, metrics: ClickHouseMetrics) {
    let servers: Vec<(String, Client)> =
        shards.servers().iter().map(|(_, server)| (server.server_name().to_owned(), server.client())).collect();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        // At once: one that hangs must not make the others look old.
        join_all(servers.iter().map(|(server, client)| look(server, client, &metrics))).await;
    }
}

async fn look(server: &str, client: &Client, metrics: &ClickHouseMetrics) {
    let read = vitals::read(client).await;
    let read = read.inspect_err(|error| tracing::debug!(%error, server, "ClickHouse does not say how it is"));
    metrics.read(server, read.ok());
}
