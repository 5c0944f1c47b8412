//! Gets the keys of a provider. One answer: no redirect is followed, since it could lead to anybody's keys.

use std::time::Duration;

use axum::http::{StatusCode, Uri};
use bytes::Bytes;

use crate::http_client::{Endpoint, HttpError};

/// Providers have a few KB.
const MAX_BYTES: usize = 256 * 1024;

/// The provider's keys did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("it answered {0} instead of 200; redirects are not followed")]
    Status(StatusCode),
}

pub(super) struct Fetch {
    endpoint: Endpoint,
    path: String,
}

impl Fetch {
    /// Each fetch may take so long, from the name of the host to the last byte.
    pub(super) fn new(uri: &Uri, within: Duration) -> Result<Self, HttpError> {
        let endpoint = Endpoint::new(&uri.to_string(), within)?.max_reply_bytes(MAX_BYTES);
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { endpoint, path })
    }

    pub(super) async fn get(&self) -> Result<Bytes, FetchError> {
        let reply = self.endpoint.get(&self.path).await?;
        if reply.status == StatusCode::OK { Ok(reply.body) } else { Err(FetchError::Status(reply.status)) }
    }
}
