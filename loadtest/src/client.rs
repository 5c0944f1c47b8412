//! A client as an SDK is one: it sends a batch and goes on trying, with the same event ids, until every event of it was
//! taken or refused.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use serde::Deserialize;
use tokio::time::Instant;

use tallyhouse_service::http_client::{Endpoint, HttpError, Reply};
use tallyhouse_service::retry;

/// An event that is ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its `eventId`: the same at every try, which is what makes trying again safe.
    pub id: String,
    /// The whole event as JSON, `eventId` included.
    pub json: String,
}

/// An event that was refused for good.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// Its place in the batch that was sent.
    pub index: usize,
    /// Its id, when it had one.
    #[serde(default)]
    pub event_id: Option<String>,
    /// The stable reason.
    pub code: String,
    /// The reason for people.
    #[serde(default)]
    pub message: String,
}

/// What became of a batch, and what it took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Events that were taken: durable, and stored with [`Until::Stored`].
    pub accepted: u64,
    /// Events that were known already.
    pub duplicates: u64,
    /// Events that were refused.
    pub rejected: Vec<Rejection>,
    /// Tries that were handed back with 429 or 503.
    pub handed_back: u32,
    /// What the last of them was told.
    pub told: Option<String>,
    /// Tries without an answer: what became of them is unknown, so the next answer may call events duplicates that this
    /// client sent only once.
    pub unanswered: u32,
}

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The whole request was refused; sending it again would not help.
    #[error("the batch was refused with {status}: {body}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// What the body said, shortened.
        body: String,
    },
    /// A success whose body says something else than the API promises.
    #[error("the answer was not understood: {0}")]
    Unintelligible(String),
    /// Still not taken when the time was up.
    #[error("not taken within {after:?}; the last try: {last}")]
    GaveUp {
        /// How long it was tried.
        after: Duration,
        /// What the last try came to.
        last: String,
    },
    /// The request cannot be made at all.
    #[error(transparent)]
    Http(HttpError),
}

/// What the answer to a batch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The events survive: what SDKs wait for.
    Durable,
    /// The rollups show them: for whoever asks the query API next.
    Stored,
}

/// How to reach the ingest API and how long to insist.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `http://host:port`
    pub url: String,
    /// The API key.
    pub key: String,
    /// What an answer waits for.
    pub until: Until,
    /// Longest wait for one answer.
    pub answer_within: Duration,
    /// Longest time to go on with one batch. Longer than any outage that is to be survived.
    pub give_up_after: Duration,
}

impl ClientConfig {
    /// The development key, 30 s for an answer, two minutes for a batch.
    pub fn development(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            key: crate::development::INGEST_KEY.to_owned(),
            until: Until::Durable,
            answer_within: Duration::from_secs(30),
            give_up_after: Duration::from_secs(120),
        }
    }
}

/// The client. It has its own connections; one call at a time uses one of them.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    give_up_after: Duration,
}

impl Client {
    /// A client; no connection is made before the first batch.
    pub fn new(config: &ClientConfig) -> Result<Self, HttpError> {
        let wait = match config.until {
            Until::Durable => "",
            Until::Stored => "?wait=stored",
        };
        let endpoint = Endpoint::new(&format!("{}/v1/events{wait}", config.url), config.answer_within)?
            .api_key(&config.key)?
            .header(CONTENT_TYPE, "application/json")?;
        Ok(Self { endpoint, give_up_after: config.give_up_after })
    }

    /// Sends a batch until all of it is taken or refused. A batch is sent whole at every try: which of its events were
    /// taken the last time is for the server to know.
    pub async fn deliver(&self, batch: &[Outgoing]) -> Result<Delivery, DeliveryError> {
        let body = body_of(batch);
        let started = Instant::now();
        let mut delivery = Delivery::default();
        loop {
            let (retry_after, last) = match verdict(self.endpoint.post(body.clone()).await)? {
                Verdict::Taken(answer) => {
                    delivery.accepted = answer.accepted;
                    delivery.duplicates = answer.duplicates;
                    delivery.rejected = answer.rejected;
                    return Ok(delivery);
                }
                Verdict::HandedBack { retry_after, said } => {
                    delivery.handed_back += 1;
                    delivery.told = Some(said.clone());
                    (retry_after, said)
                }
                Verdict::Unanswered(error) => {
                    delivery.unanswered += 1;
                    (None, error.to_string())
                }
            };
            let wait = retry::CLIENT.pause_or_asked(delivery.handed_back + delivery.unanswered, retry_after);
            if started.elapsed() + wait > self.give_up_after {
                return Err(DeliveryError::GaveUp { after: self.give_up_after, last });
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends a batch once and returns whatever came back: for probes that must see every refusal.
    pub async fn attempt(&self, batch: &[Outgoing]) -> Result<Reply, HttpError> {
        self.endpoint.post(body_of(batch)).await
    }
}

/// The body of a batch: a JSON array.
pub fn body_of(batch: &[Outgoing]) -> Bytes {
    let mut body = String::with_capacity(batch.iter().map(|event| event.json.len() + 1).sum::<usize>() + 1);
    for (index, event) in batch.iter().enumerate() {
        body.push(if index == 0 { '[' } else { ',' });
        body.push_str(&event.json);
    }
    body.push_str(if batch.is_empty() { "[]" } else { "]" });
    body.into()
}

/// The answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// Events that were taken: durable, and stored with [`Until::Stored`].
    pub accepted: u64,
    /// Events that were known already.
    pub duplicates: u64,
    /// Events that were refused.
    pub rejected: Vec<Rejection>,
}

enum Verdict {
    Taken(Answer),
    HandedBack { retry_after: Option<Duration>, said: String },
    Unanswered(HttpError),
}

/// What one try means. A 5xx that asks for no second try is a fault to be shown, not to be waited out.
fn verdict(reply: Result<Reply, HttpError>) -> Result<Verdict, DeliveryError> {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error @ (HttpError::Malformed(_) | HttpError::Tls(_))) => return Err(DeliveryError::Http(error)),
        Err(error @ (HttpError::TimedOut(_) | HttpError::Broken(_))) => return Ok(Verdict::Unanswered(error)),
    };
    match reply.status {
        StatusCode::ACCEPTED | StatusCode::OK => serde_json::from_slice(&reply.body)
            .map(Verdict::Taken)
            .map_err(|e| DeliveryError::Unintelligible(format!("{e} in {}", reply.excerpt()))),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Ok(Verdict::HandedBack {
            retry_after: reply.retry_after(),
            said: format!("{}: {}", reply.status, reply.excerpt()),
        }),
        status => Err(DeliveryError::Refused { status, body: reply.excerpt() }),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn reply(status: StatusCode, body: &'static str) -> Result<Reply, HttpError> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("3"))]);
        Ok(Reply { status, headers, body: Bytes::from_static(body.as_bytes()) })
    }

    #[test]
    fn only_what_may_succeed_later_is_tried_again() {
        let taken =
            r#"{"accepted":1,"duplicates":2,"rejected":[{"index":0,"eventId":"a","code":"too_old","message":"m"}]}"#;
        assert!(
            matches!(verdict(reply(StatusCode::ACCEPTED, taken)), Ok(Verdict::Taken(a)) if a.duplicates == 2 && a.rejected.len() == 1)
        );
        for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS] {
            let Ok(Verdict::HandedBack { retry_after, .. }) = verdict(reply(status, "{}")) else { panic!("{status}") };
            assert_eq!(retry_after, Some(Duration::from_secs(3)));
        }
        assert!(matches!(verdict(Err(HttpError::Broken(String::new()))), Ok(Verdict::Unanswered(_))));
        for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::UNAUTHORIZED, StatusCode::PAYLOAD_TOO_LARGE] {
            assert!(matches!(verdict(reply(status, "{}")), Err(DeliveryError::Refused { .. })), "{status}");
        }
        assert!(matches!(verdict(reply(StatusCode::ACCEPTED, "{}")), Err(DeliveryError::Unintelligible(_))));
    }

    #[test]
    fn a_body_is_one_array() {
        let event = |id: &str| Outgoing { id: id.to_owned(), json: format!(r#"{{"eventId":"{id}"}}"#) };
        assert_eq!(body_of(&[event("a"), event("b")]), r#"[{"eventId":"a"},{"eventId":"b"}]"#);
        assert_eq!(body_of(&[]), "[]");
    }

    /// Answers one connection after the other as told: `None` hangs up after reading the request. Returns the requests' bodies.
    async fn scripted(listener: TcpListener, answers: &[Option<&str>]) -> Vec<String> {
        let mut bodies = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.ends_with(']') {
                let mut chunk = [0; 1024];
                let read = stream.read(&mut chunk).await.unwrap();
                request.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
            }
            bodies.push(request.split_once("\r\n\r\n").unwrap().1.to_owned());
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
        bodies
    }

    #[tokio::test]
    async fn a_batch_is_sent_unchanged_until_it_is_taken() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let config = ClientConfig::development(format!("http://{}", listener.local_addr().unwrap()));
        let client = Client::new(&config).unwrap();
        let taken = r#"{"accepted":0,"duplicates":1,"rejected":[]}"#;
        let taken =
            format!("HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{taken}", taken.len());
        let busy =
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let batch = [Outgoing { id: "a".to_owned(), json: r#"{"eventId":"a"}"#.to_owned() }];

        let answers = [None, Some(busy), Some(taken.as_str())];
        let (bodies, delivery) = tokio::join!(scripted(listener, &answers), client.deliver(&batch));
        let told = Some("503 Service Unavailable: ".to_owned());
        let expected = Delivery { duplicates: 1, handed_back: 1, told, unanswered: 1, ..Delivery::default() };
        assert_eq!(delivery.unwrap(), expected);
        assert_eq!(bodies, [r#"[{"eventId":"a"}]"#; 3]);
    }
}
