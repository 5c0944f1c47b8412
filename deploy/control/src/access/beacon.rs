//! Beacons: what a page sends while it is left (`navigator.sendBeacon`). They set no header, so their key is in the body, or in the URL.
//!
//! Such a body is read before anybody knows who sent it. So it is short, as browsers send it, few are read at a time, and each has a deadline. With
//! credentials in the head the field `key` of a body is a property like any other.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tallyhouse_service::access::Denied;
use tallyhouse_service::access::presented::{self, Presented};
use tokio::sync::Semaphore;

/// Browsers send at most so much.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// Bodies that are read at a time: 16 MiB.
const AT_A_TIME: usize = 256;

/// A beacon is sent at once.
const WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Beacons(Semaphore);

impl Default for Beacons {
    fn default() -> Self {
        Self(Semaphore::new(AT_A_TIME))
    }
}

impl Beacons {
    /// Whether the key may be in the body: it is text, as beacons are, and not compressed, as they never are.
    pub(super) fn may_be(headers: &HeaderMap) -> bool {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/plain") && !headers.contains_key(header::CONTENT_ENCODING)
    }

    /// The key of a body, and the body without it.
    pub(super) async fn read(&self, body: Body) -> Result<(Presented<'static>, Vec<u8>), Denied> {
        let _reading = self.0.try_acquire().map_err(|_| Denied::Busy)?;
        let collected = tokio::time::timeout(WITHIN, Limited::new(body, MAX_BYTES).collect()).await;
        let body = match collected {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Denied::BodyTooLarge { limit: MAX_BYTES }),
            Ok(Err(_)) | Err(_) => return Err(Denied::NoBody),
        };
        presented::in_body(&body).ok_or(Denied::NoCredentials)
    }
}
