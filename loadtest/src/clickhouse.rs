//! ClickHouse over plain HTTP: to look at what is stored, and to insert beside the ingester for comparison.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderName;
use serde::de::DeserializeOwned;

use tallyhouse_service::http_client::{Endpoint, HttpError, Reply, escape};

/// Where ClickHouse is and who we are there.
#[derive(Debug, Clone)]
pub struct ClickHouseConfig {
    /// `http://host:port`
    pub url: String,
    /// The user; it must be allowed to read every project, and for the benchmark to insert into `events_in`.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// A statement that did not work out.
#[derive(Debug, thiserror::Error)]
pub enum ClickHouseError {
    /// ClickHouse did not answer.
    #[error("ClickHouse: {0}")]
    Http(#[from] HttpError),
    /// It refused.
    #[error("ClickHouse refused: {0}")]
    Refused(String),
    /// Its rows are not of the shape that was asked for.
    #[error("ClickHouse answered something else than expected: {0}")]
    Unintelligible(String),
}

/// A client with its own connections.
#[derive(Debug)]
pub struct ClickHouse {
    endpoint: Endpoint,
}

impl ClickHouse {
    /// A client; no connection is made yet.
    pub fn new(config: &ClickHouseConfig) -> Result<Self, ClickHouseError> {
        Self::with_timeout(config, Duration::from_secs(60))
    }

    /// The same, for statements that may take so long.
    pub fn with_timeout(config: &ClickHouseConfig, deadline: Duration) -> Result<Self, ClickHouseError> {
        let endpoint = Endpoint::new(&format!("{}/", config.url), deadline)?
            .header(HeaderName::from_static("x-clickhouse-user"), &config.user)?
            .header(HeaderName::from_static("x-clickhouse-key"), &config.password)?;
        Ok(Self { endpoint })
    }

    /// The body of an answer, in the format that the statement names.
    pub async fn raw(&self, sql: &str) -> Result<Bytes, ClickHouseError> {
        Ok(accepted(self.endpoint.post(Bytes::copy_from_slice(sql.as_bytes())).await?)?.body)
    }

    /// Rows of a SELECT without FORMAT, each as a tuple or an array.
    pub async fn rows<T: DeserializeOwned>(&self, select: &str) -> Result<Vec<T>, ClickHouseError> {
        let sql = format!("{select} FORMAT JSONCompactEachRow SETTINGS output_format_json_quote_64bit_integers = 0");
        let body = self.raw(&sql).await?;
        serde_json::Deserializer::from_slice(&body)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|e| ClickHouseError::Unintelligible(e.to_string()))
    }

    /// The single number that a SELECT comes to.
    pub async fn number(&self, select: &str) -> Result<u64, ClickHouseError> {
        let rows: Vec<(u64,)> = self.rows(select).await?;
        rows.first().map(|row| row.0).ok_or_else(|| ClickHouseError::Unintelligible("no row".to_owned()))
    }

    /// Inserts a prepared body. `settings` is a query string: `async_insert=0&insert_deduplication_token=…`.
    pub async fn insert(&self, insert: &str, settings: &str, body: Bytes) -> Result<(), ClickHouseError> {
        let query = format!("query={}&{settings}", escape(insert));
        accepted(self.endpoint.post_with(&query, body).await?).map(drop)
    }
}

/// ClickHouse can fail after the headers went out; then the text of the exception ends the body.
fn accepted(reply: Reply) -> Result<Reply, ClickHouseError> {
    let failed = !reply.status.is_success() || reply.headers.contains_key("x-clickhouse-exception-code");
    if failed { Err(ClickHouseError::Refused(reply.excerpt())) } else { Ok(reply) }
}
