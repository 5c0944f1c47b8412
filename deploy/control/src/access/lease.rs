//! How long credentials are good: for answers that take longer than a request, such as streams.

use std::future::pending;
use std::time::Duration;

use tokio::time::sleep;

use crate::handle::{Control, OpenedKey};
use crate::key_text::KeyDigest;

/// The right to go on.
#[derive(Clone)]
pub struct Lease(Kind);

#[derive(Clone)]
enum Kind {
    /// As long as the text opens its key.
    Key { control: Control, digest: KeyDigest },
    /// Until the token's end, in milliseconds since 1970.
    Token { until_ms: i64 },
}

impl Lease {
    pub(super) fn of_key(control: &Control, key: &OpenedKey) -> Self {
        Self(Kind::Key { control: control.clone(), digest: key.digest })
    }

    /// A token's, which ends then: in milliseconds since 1970.
    pub const fn until(until_ms: i64) -> Self {
        Self(Kind::Token { until_ms })
    }

    /// Returns when the credentials are good no more: revoked, rotated away or expired.
    pub async fn ended(self) {
        match self.0 {
            Kind::Token { until_ms } => sleep_until(until_ms, tallyhouse_service::clock::now_ms()).await,
            Kind::Key { control, digest } => {
                let mut changes = control.subscribe();
                while let Some(until_ms) = control.snapshot().opens_until(&digest, control.now_ms()) {
                    let expires = async {
                        match until_ms {
                            Some(until_ms) => sleep_until(until_ms, control.now_ms()).await,
                            None => pending().await,
                        }
                    };
                    tokio::select! {
                        changed = changes.changed() => if changed.is_err() { return },
                        () = expires => {}
                    }
                }
            }
        }
    }
}

async fn sleep_until(at_ms: i64, now_ms: i64) {
    sleep(Duration::from_millis(at_ms.saturating_sub(now_ms).max(1).unsigned_abs())).await;
}
