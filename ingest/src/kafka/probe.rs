//! Probes Kafka for `tallyhouse doctor`: writes nothing, creates nothing and joins no group.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;

use super::config::KafkaConfig;

const WITHIN: Duration = Duration::from_secs(5);

/// What Kafka says.
#[derive(Debug)]
pub struct ProbedCluster {
    /// How many brokers there are.
    pub brokers: usize,
    /// The shared topic, when it is there.
    pub topic: Option<Topic>,
}

/// A topic as it is.
#[derive(Debug, Default)]
pub struct Topic {
    /// Its partitions.
    pub partitions: usize,
    /// Copies of the partition that has the fewest.
    pub copies: usize,
    /// Its settings; none when reading them is forbidden.
    pub settings: BTreeMap<String, String>,
}

impl Topic {
    /// Why events would be lost in it: reasons that keep it from being used.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(policy) = self.settings.get("cleanup.policy").filter(|policy| policy.as_str() != "delete") {
            faults.push(format!(
                "its cleanup.policy is `{policy}`, which removes events that were not read; set `delete`"
            ));
        }
        if let Some(needed) = self.number("min.insync.replicas").filter(|needed| *needed > self.copies as i64) {
            faults.push(format!(
                "min.insync.replicas is {needed}, and there are {} copies: nothing is taken",
                self.copies
            ));
        }
        faults
    }

    /// What may become a fault.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if let Some(kept) = self.number("retention.ms").filter(|kept| (0..DAY_MS).contains(kept)) {
            doubts.push(format!(
                "retention.ms is {kept}: consumers that are away for longer lose events; set a day or more"
            ));
        }
        if self.copies >= 3 && self.number("min.insync.replicas").is_some_and(|needed| needed < 2) {
            doubts.push(
                "min.insync.replicas is 1: a broker that is lost may take acknowledged events along; set 2".to_owned(),
            );
        }
        if self.copies == 1 {
            doubts.push("it has one copy: a broker that is lost takes events along".to_owned());
        }
        doubts
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.settings.get(name)?.parse().ok()
    }
}

const DAY_MS: i64 = 24 * 3_600_000;

/// Asks the brokers, each question with a deadline of its own.
pub async fn probe(config: &KafkaConfig) -> Result<ProbedCluster, KafkaError> {
    let admin: AdminClient<DefaultClientContext> = config.brokers.client().create()?;
    let topic = config.topics.shared.clone();
    let (admin, brokers, found) = tokio::task::spawn_blocking(move || {
        let metadata = admin.inner().fetch_metadata(None, WITHIN)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let found = found.map(|found| Topic {
            partitions: found.partitions().len(),
            copies: found.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or_default(),
            settings: BTreeMap::new(),
        });
        let brokers = metadata.brokers().len();
        Ok::<_, KafkaError>((admin, brokers, found))
    })
    .await
    .unwrap_or(Err(KafkaError::Canceled))?;
    let Some(mut topic) = found else { return Ok(ProbedCluster { brokers, topic: None }) };
    let options = AdminOptions::new().request_timeout(Some(WITHIN));
    let described = admin.describe_configs([&ResourceSpecifier::Topic(&config.topics.shared)], &options).await;
    let settings = described.unwrap_or_default().into_iter().flatten().flat_map(|resource| resource.entries);
    topic.settings = settings.filter_map(|entry| Some((entry.name, entry.value?))).collect();
    Ok(ProbedCluster { brokers, topic: Some(topic) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_lose_events_are_reported() {
        let topic = |copies, settings: &[(&str, &str)]| Topic {
            partitions: 4,
            copies,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        let good =
            topic(3, &[("cleanup.policy", "delete"), ("min.insync.replicas", "2"), ("retention.ms", "604800000")]);
        assert!(good.faults().is_empty() && good.doubts().is_empty());
        assert!(topic(3, &[("cleanup.policy", "compact")]).faults()[0].contains("`compact`"));
        assert!(topic(1, &[("min.insync.replicas", "2")]).faults()[0].contains("nothing is taken"));
        assert!(topic(2, &[("retention.ms", "60000")]).doubts()[0].contains("retention.ms is 60000"));
        assert!(topic(2, &[("retention.ms", "-1")]).doubts().is_empty(), "kept for ever");
        assert!(topic(3, &[("min.insync.replicas", "1")]).doubts()[0].contains("set 2"));
    }
}
