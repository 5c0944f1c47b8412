//! Sends one event as any client would.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tallyhouse_service::secret::Secret;

/// One call.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How often an event is sent when the answer is "later".
const ATTEMPTS: u32 = 5;

/// An answer to one event is far smaller.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// What the API said about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is counted, now or before.
    Taken,
    /// It was refused again.
    Rejected {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Not a URL.
    #[error("--url: `{0}` is not a URL")]
    Url(String),
    /// Not what a header may hold.
    #[error("the key cannot be sent: it holds what no header may hold")]
    Key,
    /// The key is not known, or not one for sending.
    #[error("the key was refused: {0}")]
    KeyRefused(String),
    /// No answer, or one that says "later" again and again.
    #[error("the ingest API does not take events at the moment: {0}")]
    Unavailable(String),
}

/// The ingest API as the holder of a key sees it.
pub struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    key: HeaderValue,
}

impl Sender {
    /// To `url`, the full address of `/v1/events`. What is refused again does not become another dead letter.
    pub fn new(url: &str, key: &Secret) -> Result<Self, SendError> {
        let mut value = HeaderValue::from_str(key.expose()).map_err(|_| SendError::Key)?;
        value.set_sensitive(true);
        let joint = if url.contains('?') { '&' } else { '?' };
        let uri = format!("{url}{joint}dead_letters=off").parse().map_err(|_| SendError::Url(url.to_owned()))?;
        Ok(Self { client: Client::builder(TokioExecutor::new()).build_http(), uri, key: value })
    }

    /// Sends an event; "later" is obeyed a few times.
    pub async fn send(&self, event: &str) -> Result<Answer, SendError> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let (status, wait, body) = match self.call(event).await {
                Ok(reply) => reply,
                Err(problem) => return Err(SendError::Unavailable(problem)),
            };
            let said = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            match status {
                StatusCode::OK | StatusCode::ACCEPTED => return Ok(Answer::Taken),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(SendError::KeyRefused(said("message"))),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    last = said("message");
                    tokio::time::sleep(wait).await;
                }
                status if status.is_client_error() && !said("code").is_empty() => {
                    return Ok(Answer::Rejected { code: said("code"), message: said("message") });
                }
                status => return Err(SendError::Unavailable(format!("{status} from {}", self.uri))),
            }
        }
        Err(SendError::Unavailable(last))
    }

    async fn call(&self, event: &str) -> Result<(StatusCode, Duration, Value), String> {
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(event.as_bytes())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().insert("x-api-key", self.key.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let exchange = async {
            let (head, body) = self.client.request(request).await.map_err(|error| error.to_string())?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| error.to_string())?;
            let seconds = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let wait = Duration::from_secs(seconds.unwrap_or(1).min(10));
            Ok((head.status, wait, serde_json::from_slice(&body.to_bytes()).unwrap_or_default()))
        };
        tokio::time::timeout(ANSWER_WITHIN, exchange).await.map_err(|_| "no answer in time".to_owned())?
    }
}
