//! The HTTP client of all commands: one call with a deadline, over TLS when the URL says `https://`. Nothing is retried here, and a status is an
//! answer, not an error.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, RETRY_AFTER};
use hyper::http::uri::InvalidUri;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::tls::{ClientTls, ClientTlsError};

/// Why there is no answer. The call may or may not have been carried out.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The deadline passed.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// No connection, or it broke.
    #[error("the connection failed: {0}")]
    Broken(String),
    /// Not a call that can be made; nothing was sent.
    #[error("not an HTTP call: {0}")]
    Malformed(String),
    /// No secure connection can be made; nothing was sent.
    #[error("TLS: {0}")]
    Tls(#[from] ClientTlsError),
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Reply {
    /// `Retry-After` in its form of seconds, the only one that Tallyhouse sends.
    pub fn retry_after(&self) -> Option<Duration> {
        self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
    }

    /// The body as text for messages, cut to what fits a line or two.
    pub fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(300).collect()
    }
}

/// One endpoint over a pool of connections of its own: a worker that calls one at a time uses exactly one connection.
#[derive(Debug)]
pub struct Endpoint {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    deadline: Duration,
    max_reply_bytes: usize,
}

impl Endpoint {
    /// An endpoint by its full URL; each call gives up after `deadline`. Of `https://` servers those are believed that the system believes.
    pub fn new(url: &str, deadline: Duration) -> Result<Self, HttpError> {
        let is_secure = url.parse::<Uri>()?.scheme_str() == Some("https");
        let tls = if is_secure { ClientTls::of_system()? } else { ClientTls::of_nobody()? };
        Self::over(&tls, url, deadline)
    }

    /// The same, believing those that `tls` believes.
    pub fn over(tls: &ClientTls, url: &str, deadline: Duration) -> Result<Self, HttpError> {
        let uri = url.parse()?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(deadline));
        connector.enforce_http(false);
        let connector = HttpsConnector::from((connector, tls.config()));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, uri, headers: HeaderMap::new(), deadline, max_reply_bytes: usize::MAX })
    }

    /// Adds a header to every call.
    pub fn header(mut self, name: HeaderName, value: &str) -> Result<Self, HttpError> {
        self.headers.insert(name, HeaderValue::from_str(value)?);
        Ok(self)
    }

    /// Adds the API key, which is never printed.
    pub fn api_key(mut self, key: &str) -> Result<Self, HttpError> {
        let mut value = HeaderValue::from_str(key)?;
        value.set_sensitive(true);
        self.headers.insert(HeaderName::from_static("x-api-key"), value);
        Ok(self)
    }

    /// Adds a token as `Authorization: Bearer`, which is never printed.
    pub fn bearer(mut self, token: &str) -> Result<Self, HttpError> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, value);
        Ok(self)
    }

    /// Fails a call whose reply has a longer body.
    #[must_use]
    pub fn max_reply_bytes(self, bytes: usize) -> Self {
        Self { max_reply_bytes: bytes, ..self }
    }

    /// Where it posts to.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Posts a body to the endpoint.
    pub async fn post(&self, body: Bytes) -> Result<Reply, HttpError> {
        self.call(Method::POST, self.uri.clone(), body).await
    }

    /// Posts a body to the endpoint with this query string instead of its own.
    pub async fn post_with(&self, query: &str, body: Bytes) -> Result<Reply, HttpError> {
        self.call(Method::POST, self.with_path(&format!("{}?{query}", self.uri.path()))?, body).await
    }

    /// Gets another path of the same server.
    pub async fn get(&self, path_and_query: &str) -> Result<Reply, HttpError> {
        self.call(Method::GET, self.with_path(path_and_query)?, Bytes::new()).await
    }

    /// Calls another path of the same server.
    pub async fn send(&self, method: Method, path_and_query: &str, body: Bytes) -> Result<Reply, HttpError> {
        self.call(method, self.with_path(path_and_query)?, body).await
    }

    /// The same with more headers.
    pub async fn send_with(
        &self,
        method: Method,
        path_and_query: &str,
        more: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, HttpError> {
        let mut headers = self.headers.clone();
        headers.extend(more);
        self.call_with(method, self.with_path(path_and_query)?, headers, body).await
    }

    fn with_path(&self, path_and_query: &str) -> Result<Uri, HttpError> {
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(path_and_query.parse()?);
        Uri::from_parts(parts).map_err(|e| HttpError::Malformed(e.to_string()))
    }

    async fn call(&self, method: Method, uri: Uri, body: Bytes) -> Result<Reply, HttpError> {
        self.call_with(method, uri, self.headers.clone(), body).await
    }

    async fn call_with(&self, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Result<Reply, HttpError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|e| HttpError::Broken(chain(&e)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, self.max_reply_bytes).collect().await;
            let body = body.map_err(|e| HttpError::Broken(chain(&*e)))?.to_bytes();
            Ok(Reply { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(self.deadline, exchange).await.map_err(|_| HttpError::TimedOut(self.deadline))?
    }
}

impl From<InvalidUri> for HttpError {
    fn from(error: InvalidUri) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<InvalidHeaderValue> for HttpError {
    fn from(error: InvalidHeaderValue) -> Self {
        Self::Malformed(error.to_string())
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// A value for a query string: everything but unreserved characters is escaped.
pub fn escape(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_query_string() {
        assert_eq!(escape("origin:JFK,LGA"), "origin%3AJFK%2CLGA");
        assert_eq!(escape("2026-01-01T00:00:00+02:00"), "2026-01-01T00%3A00%3A00%2B02%3A00");
    }
}
