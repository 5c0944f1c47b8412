//! Looks whether Kafka answers, for `/health`: also while no event comes, and when a broker hangs instead of failing.

use std::sync::Arc;
use std::time::Duration;

use tallyhouse_service::health::{Health, Status};

use super::topics::Topics;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Whoever does not answer by then hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Asks Kafka. `meanwhile` says what becomes of events without it. Never ends.
pub(super) async fn watch(topics: Arc<Topics>, health: Health, meanwhile: &'static str) {
    loop {
        let asked = Arc::clone(&topics);
        match tokio::task::spawn_blocking(move || asked.answers(ANSWER_WITHIN)).await {
            Ok(Ok(())) => health.set("kafka", Status::Up, ""),
            Ok(Err(error)) => health.set("kafka", Status::Degraded, format!("does not answer: {error}; {meanwhile}")),
            // The process ends.
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
