//! Background work with Kafka: topics, the gateway's log, the consumer's thread, and shutdown.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use tallyhouse_service::health::{Health, Status};
use tallyhouse_sql::clickhouse::Client;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::consumer;
use super::delivery::KafkaDelivery;
use super::fallback::FallbackError;
use super::parts::ConsumerParts;
use super::reachable;
use super::topics::Topics;
use crate::cardinality::{CardinalityLimiter, warm_up};

/// Why it ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum KafkaRunError {
    /// The gateway's log cannot be used.
    #[error("{0}")]
    Fallback(#[from] FallbackError),
    /// The consumer's client can do nothing more.
    #[error("Kafka: {0}")]
    Consumer(#[from] KafkaError),
}

pub struct Kafka {
    /// Topics.
    pub topics: Arc<Topics>,
    /// The gateway's half, if this process is one.
    pub gateway: Option<Arc<KafkaDelivery>>,
    /// The consumer's half, if this process is one.
    pub consumer: Option<ConsumerParts>,
    /// Dimension values, to be filled at start.
    pub cardinality: Arc<CardinalityLimiter>,
    /// ClickHouse, to fill them from.
    pub client: Client,
    pub health: Health,
    /// See [`crate::Deps::tables_ready`].
    pub tables_ready: CancellationToken,
}

const TO_THE_LOG: &str = "events go to the local log";

impl Kafka {
    /// Runs until `stop`; then the consumer finishes what is on its way and leaves the group.
    pub async fn run(self, stop: CancellationToken) -> Result<(), KafkaRunError> {
        let writer = self.gateway.as_ref().map(|delivery| delivery.fallback.start()).transpose();
        let writer = writer.map_err(FallbackError::from)?;
        let mut beside = JoinSet::new();
        let ended = self.work(&mut beside, stop).await;
        // What they have in hand is in Kafka, in the local log, or was handed back.
        beside.shutdown().await;
        if let Some(writer) = writer {
            writer.end().await;
        }
        Ok(ended?)
    }

    async fn work(self, beside: &mut JoinSet<()>, stop: CancellationToken) -> Result<(), KafkaError> {
        let Self { topics, gateway, consumer, cardinality, client, health, tables_ready } = self;
        let takes_events = gateway.is_some();
        if let Some(delivery) = gateway {
            // Before Kafka was ever reached: the local log takes events meanwhile.
            health.starting("kafka", Status::Degraded, "not reached yet; events go to the local log");
            health.set("ingest", Status::Up, "");
            beside_the_gateway(beside, &delivery);
            beside.spawn(async move { warm_up::load(&client, &cardinality).await });
        } else {
            health.starting("kafka", Status::Down, "not reached yet");
        }
        tokio::select! {
            () = prepare(&topics) => {}
            () = stop.cancelled() => return Ok(()),
        }
        health.set("kafka", Status::Up, "");
        health.set("ingest", Status::Up, "");
        beside.spawn(reachable::watch(topics, health, if takes_events { TO_THE_LOG } else { "events wait there" }));
        match consumer {
            Some(parts) => match stop.run_until_cancelled(tables_ready.cancelled()).await {
                Some(()) => consume(parts, stop).await,
                None => Ok(()),
            },
            None => {
                stop.cancelled().await;
                Ok(())
            }
        }
    }
}

fn beside_the_gateway(beside: &mut JoinSet<()>, delivery: &Arc<KafkaDelivery>) {
    let fallback = Arc::clone(&delivery.fallback);
    let (draining, watching, reporting) = (Arc::clone(delivery), Arc::clone(delivery), Arc::clone(&fallback));
    let (held, held_draining) = (Arc::clone(&fallback), Arc::clone(delivery));
    beside.spawn(async move { fallback.drain(&draining.gateway).await });
    beside.spawn(async move { held.drain_held(&held_draining.gateway).await });
    beside.spawn(async move { watching.progress.run().await });
    beside.spawn(async move {
        loop {
            let fallback = Arc::clone(&reporting);
            drop(tokio::task::spawn_blocking(move || fallback.report()).await);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    });
}

/// On a thread of its own: it blocks for as long as the process lives.
async fn consume(parts: ConsumerParts, stop: CancellationToken) -> Result<(), KafkaError> {
    let (stopped, within) = (stop.clone(), parts.stop_within);
    let runtime = Handle::current();
    let (ended, end) = oneshot::channel();
    let thread = std::thread::Builder::new().name("kafka-poll".to_owned());
    let spawned = thread.spawn(move || drop(ended.send(consumer::run(&parts, &runtime, &stop))));
    if let Err(error) = spawned {
        tracing::error!(%error, "the consumer's thread cannot be started");
        return Err(KafkaError::Canceled);
    }
    tokio::select! {
        ended = end => ended.unwrap_or(Err(KafkaError::Canceled)),
        () = async { stopped.cancelled().await; tokio::time::sleep(within).await } => {
            tracing::warn!("the consumer did not end in time; the next owner repeats what it was storing");
            Ok(())
        }
    }
}

/// Makes sure that the shared topic is there. Tries until Kafka answers.
async fn prepare(topics: &Arc<Topics>) {
    let shared = topics.rules().shared.clone();
    while let Err(error) = topics.ensure(&shared).await {
        tracing::warn!(%error, "Kafka is not usable yet; trying again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
