//! The brokers that the tests themselves rely on.

use tallyhouse_loadtest::brokers::Brokers;
use tallyhouse_loadtest::chaos::lag;

use tallyhouse_testkit::{self as support, Folder};

#[tokio::test]
async fn the_shared_broker_answers_about_topics() {
    let Some(bootstrap) = support::kafka_or_skip("the_shared_broker_answers_about_topics").await else { return };
    let positions = lag::positions(&bootstrap, "no-such-topic", "no-such-group").await;
    assert_eq!(positions, Some(std::collections::BTreeMap::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_comes_back_with_its_data() {
    if support::is_kafka_off() {
        eprintln!("SKIPPED a_killed_broker_comes_back_with_its_data: it needs Kafka, and KAFKA_TESTS=off");
        return;
    }
    let folder = Folder::create();
    let mut brokers = Brokers::start(1, folder.path()).await.unwrap();
    brokers.kill(0).unwrap();
    assert_eq!(lag::positions(&brokers.bootstrap(), "any", "any").await, None);
    brokers.start_again(0).unwrap();
    brokers.ready().await.unwrap();
    brokers.stop().await.unwrap();
}
