//! Assembles the delivery and the store from the configuration.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tallyhouse_control::privacy::suppressions::Suppressions;
use tallyhouse_service::breaker::Breaker;
use tokio_util::sync::CancellationToken;

use super::{Back, RunError};
use crate::cardinality::CardinalityLimiter;
use crate::config::Config;
use crate::delivery::Delivery;
use crate::direct::checkpoint::LocalStore;
use crate::direct::{self, Direct, DirectParts};
use crate::event_key::KeyHasher;
use crate::kafka::config::KafkaConfig;
use crate::kafka::delivery::KafkaDelivery;
use crate::kafka::fallback::Fallback;
use crate::kafka::gateway::Gateway;
use crate::kafka::parts::ConsumerParts;
use crate::kafka::pins::Pins;
use crate::kafka::progress::Progress;
use crate::kafka::run::Kafka;
use crate::kafka::topics::Topics;
use crate::shard_writers::ShardWriters;
use crate::store::Store;
use crate::window::Windows;
use crate::worker::Common;
use crate::worker::pace::Pace;

/// Without Kafka: the local log.
pub(super) fn local(
    config: &Config,
    (store, shards): (Store, ShardWriters),
    cardinality: Arc<CardinalityLimiter>,
    tables_ready: CancellationToken,
    local_store: Option<LocalStore>,
    suppressions: Suppressions,
) -> Result<(Option<Delivery>, Back), RunError> {
    let common = Arc::new(Common {
        batch: config.batch,
        windows: Windows::new(config.dedup),
        hasher: KeyHasher::random(),
        shards,
        filling: AtomicUsize::new(0),
        workers: AtomicUsize::new(1),
        pace: config.pace,
        suppressions,
    });
    let (sync, limits, drain) = (config.log_sync, config.log, config.drain);
    let parts = DirectParts { store, common, cardinality, sync, limits, drain, tables_ready, local_store };
    let direct = Direct::open(&config.data.join("ingest"), parts)?;
    Ok((Some(Delivery::Local(Arc::clone(&direct.appender))), Back::Direct(Box::new(direct))))
}

/// With Kafka: the gateway, the consumer, or both.
pub(super) fn kafka(
    config: &Config,
    kafka: &KafkaConfig,
    (store, shards): (Store, ShardWriters),
    cardinality: Arc<CardinalityLimiter>,
    tables_ready: CancellationToken,
    suppressions: Suppressions,
) -> Result<(Option<Delivery>, Back), RunError> {
    if kafka.role.has_gateway() {
        direct::warn_of_unread_log(&config.data.join("ingest"));
    }
    let pins = Arc::new(Pins::new(&kafka.brokers, Arc::clone(&store.metrics))?);
    let topics = Arc::new(Topics::new(kafka.topics.clone(), &kafka.brokers, Arc::clone(&pins))?);
    let (health, metrics) = (store.health.clone(), Arc::clone(&store.metrics));
    let client = store.everything.clone();
    let gateway = kafka.role.has_gateway().then(|| {
        let fallback = Fallback::open(
            &config.data.join("ingest"),
            config.log_sync,
            config.log,
            Arc::clone(&metrics),
            health.clone(),
        )?;
        let gateway = Gateway::new(&kafka.brokers, Arc::clone(&topics), metrics, kafka.deliver_within)?;
        let progress = Progress::new(&kafka.brokers, &kafka.group)?;
        let delivery = KafkaDelivery {
            gateway,
            progress,
            fallback: Arc::new(fallback),
            breaker: Breaker::default().told("kafka"),
            answer_within: kafka.deliver_within,
        };
        Ok::<_, RunError>(Arc::new(delivery))
    });
    let gateway = gateway.transpose()?;
    let consumer = kafka.role.has_consumer().then(|| ConsumerParts {
        brokers: kafka.brokers.clone(),
        group: kafka.group.clone(),
        pins,
        rules: kafka.topics.clone(),
        common: Arc::new(Common {
            batch: config.batch,
            windows: Windows::new(config.dedup),
            hasher: KeyHasher::random(),
            shards,
            filling: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
            // Every partition keeps the least pace: whoever waits for an insert is in another process.
            pace: Pace { most: config.pace.least, ..config.pace },
            suppressions,
        }),
        store,
        drain: kafka.revoke_within,
        stop_within: config.drain,
    });
    let delivery = gateway.as_ref().map(|delivery| Delivery::Kafka(Arc::clone(delivery)));
    Ok((
        delivery,
        Back::Kafka(Box::new(Kafka { topics, gateway, consumer, cardinality, client, health, tables_ready })),
    ))
}
