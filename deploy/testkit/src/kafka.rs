//! The Kafka broker that all tests of a process share.

use tallyhouse_loadtest::brokers::Brokers;
use tallyhouse_service::env::{Env, ProcessEnv};
use tokio::sync::OnceCell;

use crate::folder::{Janitor, new_folder};
use crate::skip::skipped;

/// The one Kafka broker that all tests of this process share; a test is alone in a topic and a group of its own names. It
/// ends, and its data goes, with this process.
pub async fn brokers() -> &'static Brokers {
    static BROKERS: OnceCell<(Brokers, Janitor)> = OnceCell::const_new();
    let started = BROKERS.get_or_init(async || {
        let folder = new_folder();
        let janitor = Janitor::of(&folder);
        (Brokers::start(1, &folder).await.unwrap_or_else(|error| panic!("{error}")), janitor)
    });
    &started.await.0
}

/// Where the shared broker is (`KAFKA_BROKERS`), or `None`, told by the test's name, with `KAFKA_TESTS=off`.
pub async fn kafka_or_skip(test: &str) -> Option<String> {
    if is_kafka_off() {
        skipped(test, "it needs Kafka, and KAFKA_TESTS=off");
        return None;
    }
    Some(brokers().await.bootstrap())
}

/// Whether the tests that need Kafka are left out.
pub fn is_kafka_off() -> bool {
    ProcessEnv.get("KAFKA_TESTS").is_some_and(|value| value == "off")
}
