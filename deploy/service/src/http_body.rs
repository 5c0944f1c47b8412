//! Reads the body of a request, within limits of size and time. Call it after the key is checked, so that a stranger takes neither
//! memory nor time.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::http::Problem;
use crate::server::pace::is_too_slow;

/// The longest that a body may take to arrive.
pub const WITHIN: Duration = Duration::from_secs(5);

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnreadBody {
    /// It is too long.
    #[error("the body is longer than the {limit} bytes that are read")]
    TooLong {
        /// The longest that is read.
        limit: usize,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive completely within {} s; send it again", WITHIN.as_secs())]
    Late,
    /// It ended before its end. Mostly the client is gone.
    #[error("the body did not arrive whole; send it again")]
    Broken,
}

impl From<UnreadBody> for Problem {
    fn from(unread: UnreadBody) -> Self {
        let with = |status, code| Self::new(status, code, unread.to_string());
        match unread {
            UnreadBody::TooLong { limit } => {
                with(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large").with("limit_bytes", limit)
            }
            UnreadBody::Late => with(StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            UnreadBody::Broken => with(StatusCode::BAD_REQUEST, "body_broken"),
        }
    }
}

/// The whole body. One that says that it is too long is not waited for.
pub async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, UnreadBody> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        return Err(UnreadBody::TooLong { limit });
    }
    match tokio::time::timeout(WITHIN, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(UnreadBody::TooLong { limit }),
        Ok(Err(error)) if is_too_slow(&*error) => Err(UnreadBody::Late),
        Ok(Err(_)) => Err(UnreadBody::Broken),
        Err(_) => Err(UnreadBody::Late),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use futures_util::stream::{self, StreamExt};
    use tokio::time::Instant;

    use super::*;

    type Piece = Result<&'static str, &'static str>;

    async fn read(announced: Option<&'static str>, pieces: Vec<Piece>, ends: bool) -> Result<Bytes, UnreadBody> {
        let length = announced.map(|length| (header::CONTENT_LENGTH, HeaderValue::from_static(length)));
        let rest = stream::pending().take(usize::from(!ends));
        let body = Body::from_stream(stream::iter(pieces).chain(rest));
        super::read(&HeaderMap::from_iter(length), body, 4).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_waited_for_as_long_as_it_may_take() {
        assert_eq!(read(Some("4"), vec![Ok("ab"), Ok("cd")], true).await.unwrap(), "abcd");
        assert_eq!(read(None, vec![Ok("abc"), Ok("de")], true).await, Err(UnreadBody::TooLong { limit: 4 }));
        for announced in [Some("3"), None] {
            assert_eq!(read(announced, vec![Ok("ab"), Err("gone")], true).await, Err(UnreadBody::Broken));
        }
        let before = Instant::now();
        assert_eq!(read(Some("5"), vec![], false).await, Err(UnreadBody::TooLong { limit: 4 }), "it was waited for");
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(read(Some("3"), vec![Ok("ab")], false).await, Err(UnreadBody::Late));
        assert_eq!(before.elapsed(), WITHIN);
    }
}
