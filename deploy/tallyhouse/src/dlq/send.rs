//! Sends one event as any client would.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use serde_json::Value;
use tallyhouse_service::http_client::{Endpoint, HttpError};
use tallyhouse_service::secret::Secret;
use tallyhouse_service::tls::ClientTls;

/// One call.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How often an event is sent when the answer is "later".
const ATTEMPTS: u32 = 5;

/// Between two tries, unless the answer names another time, which is obeyed up to the longest.
const WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// An answer to one event is far smaller.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// What the API said about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is counted, now or before.
    Taken,
    /// It was refused again.
    Rejected { code: String, message: String },
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
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
pub struct Sender(Endpoint);

impl Sender {
    /// To `url`, the full address of `/v1/events`. What is refused again does not become another dead letter.
    pub fn new(url: &str, tls: Option<&ClientTls>, key: &Secret) -> Result<Self, SendError> {
        let joint = if url.contains('?') { '&' } else { '?' };
        let full = format!("{url}{joint}dead_letters=off");
        let endpoint = match tls {
            Some(tls) => Endpoint::over(tls, &full, ANSWER_WITHIN),
            None => Endpoint::new(&full, ANSWER_WITHIN),
        };
        let endpoint = endpoint.map_err(|error| match error {
            HttpError::Tls(problem) => SendError::Unavailable(problem.to_string()),
            _ => SendError::Url(url.to_owned()),
        });
        let endpoint = endpoint?.max_reply_bytes(MAX_ANSWER_BYTES);
        let with_headers =
            |endpoint: Endpoint| endpoint.api_key(key.expose())?.header(CONTENT_TYPE, "application/json");
        with_headers(endpoint).map(Self).map_err(|_: HttpError| SendError::Key)
    }

    /// Sends an event; "later" is obeyed a few times.
    pub async fn send(&self, event: &str) -> Result<Answer, SendError> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let reply = self.0.post(event.to_owned().into()).await;
            let reply = reply.map_err(|error| SendError::Unavailable(error.to_string()))?;
            let wait = reply.retry_after().unwrap_or(WAIT).min(LONGEST_WAIT);
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            let said = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            match reply.status {
                StatusCode::OK | StatusCode::ACCEPTED => return Ok(Answer::Taken),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(SendError::KeyRefused(said("message"))),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    last = said("message");
                    tokio::time::sleep(wait).await;
                }
                status if status.is_client_error() && !said("code").is_empty() => {
                    return Ok(Answer::Rejected { code: said("code"), message: said("message") });
                }
                status => return Err(SendError::Unavailable(format!("{status} from {}", self.0.uri()))),
            }
        }
        Err(SendError::Unavailable(last))
    }
}
