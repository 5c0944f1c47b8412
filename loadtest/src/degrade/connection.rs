//! One connection to an instance, open before it is used, and closed with the value as a browser's tab is.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::DegradeError;
use crate::development::QUERY_KEY;

#[derive(Debug, Clone)]
pub(super) enum Question {
    /// GET of a path.
    Get(String),
    /// POST of a JSON body.
    Post { path: &'static str, body: Bytes },
}

pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    carried: JoinHandle<()>,
    address: String,
}

impl Connection {
    pub(super) async fn open(address: &str) -> Result<Self, DegradeError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Its failure is that of the request on it.
        let carried = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, carried, address: address.to_owned() })
    }

    /// Asks; the status, and what the cache did.
    pub(super) async fn ask(&mut self, question: &Question) -> Result<(StatusCode, String), DegradeError> {
        self.sender.ready().await.map_err(broken)?;
        let (method, path, body) = match question {
            Question::Get(path) => (Method::GET, path.as_str(), Bytes::new()),
            Question::Post { path, body } => (Method::POST, *path, body.clone()),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.address)
            .header(CONTENT_TYPE, "application/json")
            .header("x-api-key", QUERY_KEY)
            .body(Full::new(body))
            .map_err(|error| DegradeError::Worthless(error.to_string()))?;
        let (head, body) = self.sender.send_request(request).await.map_err(broken)?.into_parts();
        body.collect().await.map_err(broken)?;
        let cache = head.headers.get("x-cache").and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok((head.status, cache.to_owned()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.carried.abort();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: hyper::Error) -> DegradeError {
    DegradeError::Worthless(format!("a connection failed: {error}"))
}
