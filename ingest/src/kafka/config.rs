//! The configuration of Kafka.

use std::time::Duration;

use clap::Args;
use tallyhouse_service::env::{self, ConfigError, Env, choice, millis, whole};

use super::settings::{Brokers, Options};
use super::topics::TopicRules;
use crate::projects::OwnTopics;

/// What this process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes events and writes them to Kafka.
    Gateway,
    /// Reads Kafka and stores.
    Consumer,
    /// Both.
    All,
}

impl Role {
    /// As `INGEST_ROLE` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Consumer => "consumer",
            Self::All => "all",
        }
    }

    /// Whether it takes events.
    pub fn has_gateway(self) -> bool {
        self != Self::Consumer
    }

    /// Whether it stores them.
    pub fn has_consumer(self) -> bool {
        self != Self::Gateway
    }
}

impl std::str::FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "gateway" => Ok(Self::Gateway),
            "consumer" => Ok(Self::Consumer),
            "all" => Ok(Self::All),
            _ => Err(()),
        }
    }
}

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `INGEST_ROLE`
    pub role: Role,
    /// `KAFKA_BROKERS`, `KAFKA_OPTIONS`
    pub brokers: Brokers,
    /// `KAFKA_TOPIC`, `KAFKA_PARTITIONS`, `KAFKA_REPLICATION`; which projects have their own is in their settings.
    pub topics: TopicRules,
    /// `KAFKA_GROUP`
    pub group: String,
    /// `KAFKA_TIMEOUT_MS`: a record that is not acknowledged by then goes to the local log or is handed back.
    pub deliver_within: Duration,
    /// `KAFKA_REVOKE_MS`: how long a rebalance waits for a batch on its way.
    pub revoke_within: Duration,
}

/// The variables of Kafka delivery; `KAFKA_TOPIC_PER_PROJECT` is among those of projects.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaSettings {
    /// `host:port,…`: events go through Kafka
    #[arg(long, env = "KAFKA_BROKERS")]
    pub kafka_brokers: Option<String>,
    /// What this process does: takes events and writes them to Kafka (`gateway`), reads Kafka and stores (`consumer`), or both; needs
    /// `KAFKA_BROKERS`
    #[arg(long, env = "INGEST_ROLE", default_value = "all", value_parser = choice::<Role>(&["gateway", "consumer", "all"]))]
    pub ingest_role: Role,
    /// The topic that projects share
    #[arg(long, env = "KAFKA_TOPIC", default_value = "tallyhouse.events")]
    pub kafka_topic: String,
    /// The group of the consumers
    #[arg(long, env = "KAFKA_GROUP", default_value = "tallyhouse")]
    pub kafka_group: String,
    /// Partitions of a topic that is made
    #[arg(long, env = "KAFKA_PARTITIONS", default_value = "4", value_parser = whole::<i32>(1, 1_000, "partitions"))]
    pub kafka_partitions: i32,
    /// Copies of a topic that is made (default: min(3, brokers))
    #[arg(long, env = "KAFKA_REPLICATION", value_parser = whole::<i32>(1, 15, "copies"))]
    pub kafka_replication: Option<i32>,
    /// Until a record goes to the disk; at most half of `INGEST_ACK_TIMEOUT_MS`
    #[arg(long, env = "KAFKA_TIMEOUT_MS", default_value = "1000", value_parser = millis(100, 60_000))]
    pub kafka_timeout_ms: Duration,
    /// How long a rebalance waits for a batch on its way
    #[arg(long, env = "KAFKA_REVOKE_MS", default_value = "10000", value_parser = millis(0, 120_000))]
    pub kafka_revoke_ms: Duration,
    /// More options of librdkafka, `name=value;…` (TLS and SASL need a build with `--features tallyhouse-ingest/ssl`)
    #[arg(env = "KAFKA_OPTIONS", value_parser = Options::parse)]
    pub kafka_options: Option<Options>,
}

impl KafkaConfig {
    /// Reads it; `None` when `KAFKA_BROKERS` is not set. `own` is what the settings of projects say.
    pub fn from_env(env: &dyn Env, own: OwnTopics) -> Result<Option<Self>, ConfigError> {
        let settings: KafkaSettings = env::read(env)?;
        let Some(bootstrap) = settings.kafka_brokers else {
            return match settings.ingest_role {
                Role::All => Ok(None),
                _ => Err(ConfigError::new("INGEST_ROLE", "needs KAFKA_BROKERS: without Kafka there is only `all`")),
            };
        };
        Ok(Some(Self {
            role: settings.ingest_role,
            brokers: Brokers { bootstrap, options: settings.kafka_options.unwrap_or_default() },
            topics: TopicRules {
                shared: settings.kafka_topic,
                own,
                partitions: settings.kafka_partitions,
                replication: settings.kafka_replication,
            },
            group: settings.kafka_group,
            deliver_within: settings.kafka_timeout_ms,
            revoke_within: settings.kafka_revoke_ms,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<KafkaConfig>, String> {
        let env: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        KafkaConfig::from_env(&env, OwnTopics::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn there_is_no_kafka_without_brokers() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("INGEST_ROLE", "consumer")]).unwrap_err().starts_with("INGEST_ROLE: needs KAFKA_BROKERS"));
        let config = read(&[("KAFKA_BROKERS", "b:9092"), ("INGEST_ROLE", "gateway")]).unwrap().unwrap();
        assert!(config.role.has_gateway() && !config.role.has_consumer());
        assert_eq!((config.topics.shared.as_str(), config.topics.partitions), ("tallyhouse.events", 4));
    }

    #[test]
    fn a_secret_among_the_options_is_not_printed() {
        let error = read(&[("KAFKA_BROKERS", "b"), ("KAFKA_OPTIONS", "acks=1;sasl.password=hunter2")]).unwrap_err();
        assert!(error.starts_with("KAFKA_OPTIONS") && !error.contains("hunter2"));
    }
}
