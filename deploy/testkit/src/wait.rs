//! Waits for a condition.

use std::time::Duration;

/// How long a condition may take to become true before the test is given up.
const TIME_BUDGET: Duration = Duration::from_secs(30);

/// Asks until the answer is yes.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(TIME_BUDGET, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not within {TIME_BUDGET:?}");
}
