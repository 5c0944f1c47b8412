//! The admin API of a running query service.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tallyhouse_service::http_client::{Endpoint, HttpError, Reply};

use super::AT_ONCE;
use crate::config::RemoteAccess;

/// An operation writes to ClickHouse a few times.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A page of a list is far smaller.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A query service, as the holder of a key sees it.
pub struct Remote(Endpoint);

/// Why the API did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("TALLYHOUSE_URL: {0}")]
    Call(#[from] HttpError),
    #[error("{message} ({code}, status {status})")]
    Refused {
        status: u16,
        code: String,
        message: String,
        /// The one in force, of a conflict.
        version: Option<u32>,
    },
    #[error("TALLYHOUSE_URL does not lead to a query service of Tallyhouse: status {status}, {body}")]
    Unintelligible { status: u16, body: String },
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    message: String,
    version: Option<u32>,
}

#[derive(Deserialize)]
struct Listed<T> {
    data: Vec<T>,
    next: Option<String>,
}

impl Remote {
    pub(super) fn new(access: &RemoteAccess) -> Result<Self, RemoteError> {
        let endpoint = Endpoint::new(&access.url, ANSWER_WITHIN)?.max_reply_bytes(MAX_ANSWER_BYTES);
        Ok(Self(endpoint.api_key(access.key.expose())?.header(CONTENT_TYPE, "application/json")?))
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, RemoteError> {
        self.call(Method::POST, path, Bytes::from(body.to_string())).await
    }

    /// `POST` on a part of the admin API, by the segments of its path.
    pub(super) async fn act<T: DeserializeOwned>(&self, segments: &[&str], body: &Value) -> Result<T, RemoteError> {
        self.post(&path(segments), body).await
    }

    pub(super) async fn patch<T: DeserializeOwned>(&self, segments: &[&str], body: &Value) -> Result<T, RemoteError> {
        self.call(Method::PATCH, &path(segments), Bytes::from(body.to_string())).await
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, segments: &[&str], body: &Value) -> Result<T, RemoteError> {
        self.call(Method::DELETE, &path(segments), Bytes::from(body.to_string())).await
    }

    /// `DELETE` of a version that is named in the query.
    pub(super) async fn delete_version<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, RemoteError> {
        self.call(Method::DELETE, &with_query(&path(segments), query), Bytes::new()).await
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, RemoteError> {
        self.read(&with_query(&path(segments), query)).await
    }

    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, RemoteError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// A list, page by page, up to so many entries. `cursor` is the parameter that goes on.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        cursor: &str,
        most: usize,
    ) -> Result<Vec<T>, RemoteError> {
        let (mut all, mut from): (Vec<T>, Option<String>) = (Vec::new(), None);
        while all.len() < most {
            let limit = (most - all.len()).min(AT_ONCE).to_string();
            let mut query = query.to_vec();
            query.push(("limit", &limit));
            query.extend(from.as_deref().map(|from| (cursor, from)));
            let Listed { data, next } = self.call(Method::GET, &with_query(path, &query), Bytes::new()).await?;
            all.extend(data);
            from = next;
            if from.is_none() {
                break;
            }
        }
        Ok(all)
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, RemoteError> {
        understood(&self.0.send(method, path, body).await?)
    }
}

fn understood<T: DeserializeOwned>(reply: &Reply) -> Result<T, RemoteError> {
    let status = reply.status.as_u16();
    let unintelligible = || RemoteError::Unintelligible { status, body: reply.excerpt() };
    if reply.status.is_success() {
        return serde_json::from_slice(&reply.body).map_err(|_| unintelligible());
    }
    let Problem { code, message, version } = serde_json::from_slice(&reply.body).map_err(|_| unintelligible())?;
    Err(RemoteError::Refused { status, code, message, version })
}

fn path(segments: &[&str]) -> String {
    below("/v1/admin", segments)
}

/// What somebody typed may hold anything: it is encoded, so that it stays one segment.
pub(super) fn below(root: &str, segments: &[&str]) -> String {
    segments.iter().fold(root.to_owned(), |mut path, segment| {
        path.push('/');
        path.extend(form_urlencoded::byte_serialize(segment.as_bytes()).flat_map(|part| {
            // A blank in a path is no `+`.
            part.chars().map(|c| if c == '+' { "%20".to_owned() } else { c.to_string() }).collect::<Vec<_>>()
        }));
        path
    })
}

pub(super) fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("{path}?{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_stays_one_segment() {
        assert_eq!(path(&["projects", "shop-eu_1.a"]), "/v1/admin/projects/shop-eu_1.a");
        assert_eq!(path(&["keys", "a b/../c?d#e+", "revoke"]), "/v1/admin/keys/a%20b%2F..%2Fc%3Fd%23e%2B/revoke");
        assert_eq!(with_query("/x", &[("project", "a&b=c")]), "/x?project=a%26b%3Dc");
    }
}
