//! Topics: which one a project's events go to, how many partitions it has, and making it when it is not there.
//!
//! Failure cases:
//! * the broker is away: nothing is known yet, and the caller uses its local log or hands back;
//! * the topic vanishes while we run: producing fails, its shape is doubted, and it is made anew once consumers had time to see
//!   that it was gone. librdkafka keeps a partition's position when it finds another topic of the same name, and would skip
//!   what comes before it;
//! * it vanished just before we started: we cannot know that it was ever there, and make it at once, with that very risk;
//! * another instance makes it at the same moment: that is a success.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tallyhouse_schema::project::ProjectName;
use tokio::time::Instant;

use super::pins::Pins;
use super::settings::Brokers;
use crate::projects::OwnTopics;

/// How topics are named and made.
#[derive(Debug, Clone)]
pub struct TopicRules {
    /// `KAFKA_TOPIC`: where events go.
    pub shared: String,
    /// Which projects have `events.{project}` instead.
    pub own: OwnTopics,
    /// `KAFKA_PARTITIONS` of a topic that is made.
    pub partitions: i32,
    /// `KAFKA_REPLICATION`; `None`: three, or as many as there are brokers.
    pub replication: Option<i32>,
}

/// What a topic of a project is called: this and the project's name.
const PROJECT_PREFIX: &str = "events.";

impl TopicRules {
    /// The topic of a project. What is no name of a project stays in the shared one; every name is one that Kafka takes.
    pub fn of(&self, project: &str) -> String {
        let has_own = ProjectName::is_valid(project) && self.own.has(project);
        if has_own { format!("{PROJECT_PREFIX}{project}") } else { self.shared.clone() }
    }

    /// The project whose own topic it is.
    pub fn project_of(&self, topic: &str) -> Option<ProjectName> {
        topic.strip_prefix(PROJECT_PREFIX).filter(|_| topic != self.shared)?.parse().ok()
    }

    /// What a consumer subscribes to.
    pub fn subscription(&self) -> Vec<String> {
        let mut topics = vec![self.shared.clone()];
        if !self.own.is_empty() {
            topics.push(format!("^{}[A-Za-z0-9][A-Za-z0-9_.-]*$", PROJECT_PREFIX.replace('.', "\\.")));
        }
        topics
    }
}

/// Records are kept so long: the time there is to bring consumers back.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A count is asked for again after this time, so that `topics widen` takes effect, and added partitions are reported.
const FRESH_FOR: Duration = Duration::from_secs(30);

const ASK_WITHIN: Duration = Duration::from_secs(2);

/// A topic that was there is made anew after this time. Consumers see within [`super::settings::GONE_AFTER`] that it is gone;
/// the rest is for those that stood still for a moment.
const GONE_FOR: Duration = Duration::from_secs(5 * super::settings::GONE_AFTER.as_secs());

/// Why a topic cannot be used now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("topic {topic}: {problem}")]
pub struct TopicError {
    pub topic: String,
    /// What Kafka says.
    pub problem: String,
    /// A broker answered: it is about this topic.
    pub is_answer: bool,
}

/// Topics and what is known about them.
pub struct Topics {
    rules: TopicRules,
    admin: AdminClient<DefaultClientContext>,
    pins: Arc<Pins>,
    states: Mutex<HashMap<String, TopicState>>,
    /// Who asks; and when Kafka last did not answer, with what was said then.
    making: tokio::sync::Mutex<Option<(Instant, TopicError)>>,
}

/// What a producer must know of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The partitions that are used.
    pub partitions: i32,
    /// The largest record that it takes, in bytes.
    pub record_bytes: usize,
}

#[derive(Clone, Copy)]
struct TopicState {
    shape: Shape,
    asked: Instant,
    is_doubted: bool,
    /// When it was first seen that it is not there any more.
    gone_since: Option<Instant>,
}

impl TopicState {
    /// Whether the topic may be made anew, now that it is not there: its consumers had time to see that.
    fn may_be_made_anew(&mut self, now: Instant) -> bool {
        now.duration_since(*self.gone_since.get_or_insert(now)) >= GONE_FOR
    }
}

/// `max.message.bytes` of a topic whose own is not known: Kafka's default.
const DEFAULT_MESSAGE_BYTES: usize = 1_048_588;

/// What a batch of one record weighs beside its payload: the batch's header, the key, one trace header.
const BATCH_OVERHEAD: usize = 256;

impl Topics {
    /// Whether Kafka answers within this time. Blocking.
    pub fn answers(&self, within: Duration) -> Result<(), KafkaError> {
        self.admin.inner().fetch_metadata(Some(&self.rules.shared), within).map(drop)
    }

    /// Speaks to nobody yet.
    pub fn new(rules: TopicRules, brokers: &Brokers, pins: Arc<Pins>) -> Result<Self, KafkaError> {
        let admin = brokers.client().create()?;
        Ok(Self { rules, admin, pins, states: Mutex::default(), making: tokio::sync::Mutex::default() })
    }

    /// The rules.
    pub fn rules(&self) -> &TopicRules {
        &self.rules
    }

    /// What is known of a topic now.
    pub fn known(&self, topic: &str) -> Option<Shape> {
        self.lock().get(topic).map(|known| known.shape)
    }

    /// A topic's shape, asked for when it is old; the topic is made when it is not there. One asks at a time: who waited while Kafka did not
    /// answer does not ask again, or each would wait for all those before it.
    pub async fn ensure(self: &Arc<Self>, topic: &str) -> Result<Shape, TopicError> {
        if let Some(shape) = self.fresh(topic) {
            return Ok(shape);
        }
        let came = Instant::now();
        let mut unanswered = self.making.lock().await;
        if let Some(shape) = self.fresh(topic) {
            return Ok(shape);
        }
        if let Some((_, error)) = unanswered.as_ref().filter(|(at, _)| *at >= came) {
            return self.known(topic).ok_or_else(|| TopicError { topic: topic.to_owned(), ..error.clone() });
        }
        let found = self.find_or_make(topic).await;
        *unanswered =
            found.as_ref().err().filter(|error| !error.is_answer).map(|error| (Instant::now(), error.clone()));
        // Better what was true a minute ago than nothing.
        found.or_else(|error| self.known(topic).filter(|_| !error.is_answer).ok_or(error))
    }

    async fn find_or_make(self: &Arc<Self>, topic: &str) -> Result<Shape, TopicError> {
        let partitions = self.ask(topic).await?;
        if partitions > 0 {
            return self.learn(topic, partitions).await;
        }
        if !self.may_be_made(topic) {
            return Err(answer(topic, "it is gone, and is made anew when its consumers have seen that"));
        }
        self.make(topic).await?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.ask(topic).await? {
                0 if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
                0 => return Err(answer(topic, "it was made, but has no partitions yet")),
                partitions => return self.learn(topic, partitions).await,
            }
        }
    }

    /// Whether a topic that is not there may be made: this process never saw it, or it is gone for long enough.
    fn may_be_made(&self, topic: &str) -> bool {
        let anew = self.lock().get_mut(topic).map(|known| known.may_be_made_anew(Instant::now()));
        if anew == Some(true) {
            tracing::error!(topic, "a topic was deleted with whatever was not consumed yet; it is made anew");
        }
        anew.unwrap_or(true)
    }

    /// A record did not arrive: what is known may be wrong, so it is asked for again.
    pub fn doubt(&self, topic: &str) {
        if let Some(known) = self.lock().get_mut(topic) {
            known.is_doubted = true;
        }
    }

    fn fresh(&self, topic: &str) -> Option<Shape> {
        self.lock()
            .get(topic)
            .filter(|known| !known.is_doubted && known.asked.elapsed() < FRESH_FOR)
            .map(|known| known.shape)
    }

    async fn learn(&self, topic: &str, there: i32) -> Result<Shape, TopicError> {
        let (pins, name) = (Arc::clone(&self.pins), topic.to_owned());
        let pinned = tokio::task::spawn_blocking(move || pins.of(&name, there)).await;
        let partitions = pinned.unwrap_or(Err(KafkaError::Canceled)).map_err(|e| error(topic, e))?;
        let shape = Shape { partitions, record_bytes: self.message_bytes(topic).await.saturating_sub(BATCH_OVERHEAD) };
        let known = TopicState { shape, asked: Instant::now(), is_doubted: false, gone_since: None };
        self.lock().insert(topic.to_owned(), known);
        Ok(shape)
    }

    /// The topic's `max.message.bytes`. Reading it may be forbidden: then the default is believed.
    async fn message_bytes(&self, topic: &str) -> usize {
        let options = AdminOptions::new().request_timeout(Some(ASK_WITHIN));
        let asked = self.admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
        let configs = asked.unwrap_or_default().into_iter().flatten();
        let mut values = configs.filter_map(|config| config.get("max.message.bytes")?.value.as_ref()?.parse().ok());
        values.next().unwrap_or(DEFAULT_MESSAGE_BYTES)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, TopicState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Partitions of the topic; 0 when it is not there.
    async fn ask(self: &Arc<Self>, topic: &str) -> Result<i32, TopicError> {
        let (this, name) = (Arc::clone(self), topic.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = this.admin.inner().fetch_metadata(Some(&name), ASK_WITHIN)?;
            let found = metadata.topics().iter().find(|found| found.name() == name);
            Ok::<_, KafkaError>(found.map_or(0, |found| i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)))
        });
        asked.await.map_err(|e| error(topic, e))?.map_err(|e| error(topic, e))
    }

    /// Whether a broker answers now.
    pub async fn is_answered(self: &Arc<Self>) -> bool {
        self.brokers().await.is_ok()
    }

    async fn brokers(self: &Arc<Self>) -> Result<i32, KafkaError> {
        let this = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || {
            this.admin.inner().fetch_metadata(None, ASK_WITHIN).map(|metadata| metadata.brokers().len())
        });
        let brokers = asked.await.unwrap_or(Err(KafkaError::Canceled))?;
        Ok(i32::try_from(brokers).unwrap_or(1))
    }

    async fn make(self: &Arc<Self>, topic: &str) -> Result<(), TopicError> {
        let replication = match self.rules.replication {
            Some(replication) => replication,
            None => self.brokers().await.map_err(|e| error(topic, e))?.clamp(1, 3),
        };
        let retention = RETENTION.as_millis().to_string();
        // With three copies two must have a record before it is acknowledged: one broker may be lost, and one may be away.
        let in_sync = if replication >= 3 { "2" } else { "1" };
        let new = NewTopic::new(topic, self.rules.partitions, TopicReplication::Fixed(replication))
            .set("retention.ms", &retention)
            .set("min.insync.replicas", in_sync)
            .set("cleanup.policy", "delete");
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        let made = self.admin.create_topics([&new], &options).await.map_err(|e| error(topic, e))?;
        for outcome in made {
            match outcome {
                Ok(_) => tracing::info!(topic, partitions = self.rules.partitions, replication, "topic made"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(answer(topic, code)),
            }
        }
        Ok(())
    }
}

fn error(topic: &str, problem: impl std::fmt::Display) -> TopicError {
    TopicError { topic: topic.to_owned(), problem: problem.to_string(), is_answer: false }
}

fn answer(topic: &str, problem: impl std::fmt::Display) -> TopicError {
    TopicError { is_answer: true, ..error(topic, problem) }
}

#[cfg(test)]
mod tests {
    use tallyhouse_testkit::project_names::{NAMES, NO_NAMES};

    use super::*;

    #[test]
    fn a_topic_that_vanished_is_made_anew_when_it_was_gone_long_enough() {
        let now = Instant::now();
        let shape = Shape { partitions: 1, record_bytes: 1 };
        let mut known = TopicState { shape, asked: now, is_doubted: true, gone_since: None };
        assert!(!known.may_be_made_anew(now), "just seen to be gone");
        assert!(!known.may_be_made_anew(now + GONE_FOR / 2));
        assert!(known.may_be_made_anew(now + GONE_FOR), "the first sight counts, not the last");
    }

    #[test]
    fn a_project_has_its_own_topic_where_its_name_allows_it() {
        let own = OwnTopics { is_default: true, exceptions: ["small".to_owned()].into() };
        let mut rules = TopicRules { shared: "tallyhouse.events".into(), own, partitions: 4, replication: None };
        assert_eq!(rules.of("shop-1"), "events.shop-1");
        for odd in NO_NAMES {
            assert_eq!(rules.of(odd), "tallyhouse.events", "{odd:?}");
            assert_eq!(rules.project_of(&format!("events.{odd}")), None, "{odd:?}");
        }
        for name in NAMES {
            assert_eq!(rules.project_of(&rules.of(name)).as_deref(), Some(name));
        }
        assert_eq!(rules.project_of("tallyhouse.events"), None);
        let shared = TopicRules { shared: "events.all".into(), ..rules.clone() };
        assert_eq!(shared.project_of("events.all"), None);
        assert_eq!(rules.subscription(), ["tallyhouse.events", "^events\\.[A-Za-z0-9][A-Za-z0-9_.-]*$"]);
        assert_eq!(rules.of("small"), "tallyhouse.events");
        rules.own.is_default = false;
        assert_eq!((rules.of("shop-1").as_str(), rules.of("small").as_str()), ("tallyhouse.events", "events.small"));
        assert_eq!(rules.subscription().len(), 2);
        rules.own = OwnTopics::default();
        assert_eq!(rules.subscription(), ["tallyhouse.events"]);
    }
}
