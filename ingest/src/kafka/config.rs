//! What can be set for Kafka.

use std::time::Duration;

use tallyhouse_service::env::{self, ConfigError, Env};

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

impl KafkaConfig {
    /// Reads it; `None` when `KAFKA_BROKERS` is not set. `own` is what the settings of projects say.
    pub fn from_env(env: &dyn Env, own: OwnTopics) -> Result<Option<Self>, ConfigError> {
        let role = env::optional(env, "INGEST_ROLE", "gateway, consumer or all")?;
        let Some(bootstrap) = env.get("KAFKA_BROKERS") else {
            return match role {
                None | Some(Role::All) => Ok(None),
                Some(_) => {
                    Err(ConfigError::new("INGEST_ROLE", "needs KAFKA_BROKERS: without Kafka there is only `all`"))
                }
            };
        };
        let number = |name, bounds, default| env::bounded(env, name, bounds, default).map(|number| number as i32);
        let options = Options::parse(&env.get("KAFKA_OPTIONS").unwrap_or_default())
            .map_err(|problem| ConfigError::new("KAFKA_OPTIONS", problem))?;
        let replication = match env.get("KAFKA_REPLICATION") {
            Some(_) => Some(number("KAFKA_REPLICATION", (1, 15), 3)?),
            None => None,
        };
        Ok(Some(Self {
            role: role.unwrap_or(Role::All),
            brokers: Brokers { bootstrap, options },
            topics: TopicRules {
                shared: env.get("KAFKA_TOPIC").unwrap_or_else(|| "tallyhouse.events".to_owned()),
                own,
                partitions: number("KAFKA_PARTITIONS", (1, 1_000), 4)?,
                replication,
            },
            group: env.get("KAFKA_GROUP").unwrap_or_else(|| "tallyhouse".to_owned()),
            deliver_within: env::millis(env, "KAFKA_TIMEOUT_MS", (100, 60_000), 1_000)?,
            revoke_within: env::millis(env, "KAFKA_REVOKE_MS", (0, 120_000), 10_000)?,
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
