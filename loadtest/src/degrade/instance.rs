//! One `query-api` process and its metrics.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;

use super::DegradeError;
use super::stage::until;
use crate::credentials;
use crate::daemon::{Daemon, Launch, log_tail};
use crate::development::QUERY_KEY;
use crate::ports::free_address;
use tallyhouse_service::http_client::Endpoint;

/// Longer than any class lets an answer take.
const TIMEOUT: Duration = Duration::from_secs(45);

const QUERIES: &str = "tallyhouse_query_clickhouse_queries_total";

/// How an instance is started.
pub(super) struct Start<'a> {
    pub(super) program: &'a Path,
    pub(super) folder: &'a Path,
    /// Tells their logs apart.
    pub(super) number: usize,
    pub(super) clickhouse_url: &'a str,
    pub(super) redis_url: &'a str,
    /// Variables that differ from the above.
    pub(super) settings: &'a [(&'a str, &'a str)],
}

/// A running instance; killed when the value goes.
pub(super) struct Instance {
    pub(super) api: Arc<Endpoint>,
    /// `host:port` of its API.
    pub(super) address: String,
    daemon: Daemon,
    admin: Endpoint,
}

impl Instance {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(start: Start<'_>) -> Result<Self, DegradeError> {
        let (address, admin) = (free_address()?, free_address()?);
        let name = format!("query-api-{}", start.number);
        let log = start.folder.join(format!("{name}.log"));
        let common = [
            ("TALLYHOUSE_DEV", "1"),
            ("QUERY_ADDR", &address),
            ("QUERY_ADMIN_ADDR", &admin),
            ("CLICKHOUSE_URL", start.clickhouse_url),
            ("CLICKHOUSE_USER", "reader"),
            ("CLICKHOUSE_PASSWORD", credentials::PASSWORD),
            ("CLICKHOUSE_ANALYST_PASSWORD", credentials::PASSWORD),
            ("REDIS_URL", start.redis_url),
        ];
        let launch = Launch {
            name: name.clone(),
            program: start.program.to_owned(),
            arguments: Vec::new(),
            env: common.iter().chain(start.settings).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            without: Vec::new(),
            log: log.clone(),
        };
        let mut daemon = Daemon::start(&launch)?;
        let admin = Endpoint::new(&format!("http://{admin}/"), Duration::from_secs(10))?;
        let mut is_over = false;
        until("an instance is ready", async || {
            is_over = daemon.has_ended();
            is_over || admin.get("/health/ready").await.is_ok_and(|reply| reply.status.is_success())
        })
        .await?;
        if is_over {
            return Err(DegradeError::Worthless(format!("{name} ended at its start:\n{}", log_tail(&log))));
        }
        let api = Endpoint::new(&format!("http://{address}/v1/query"), TIMEOUT)?
            .api_key(QUERY_KEY)?
            .header(hyper::header::CONTENT_TYPE, "application/json")?;
        Ok(Self { api: Arc::new(api), address, daemon, admin })
    }

    /// Queries that it has sent to ClickHouse and that have ended.
    pub(super) async fn queries(&self) -> Result<u64, DegradeError> {
        let text = self.metrics().await?;
        Ok(sum(&text, QUERIES, "") - sum(&text, QUERIES, "outcome=\"refused\""))
    }

    /// The sum of a metric's series whose labels hold this text.
    pub(super) async fn counted(&self, name: &str, label: &str) -> Result<u64, DegradeError> {
        Ok(sum(&self.metrics().await?, name, label))
    }

    /// Clears the cache of all instances.
    pub(super) async fn clear_cache(&self) -> Result<(), DegradeError> {
        let reply = self.admin.send(Method::DELETE, "/v1/cache", Bytes::new()).await?;
        let cleared = reply.status.is_success();
        if cleared { Ok(()) } else { Err(DegradeError::Worthless(format!("not cleared: {}", reply.excerpt()))) }
    }

    /// `kill -9`
    pub(super) fn kill(&mut self) {
        self.daemon.kill();
    }

    async fn metrics(&self) -> Result<String, DegradeError> {
        let reply = self.admin.get("/metrics").await?;
        Ok(String::from_utf8_lossy(&reply.body).into_owned())
    }
}

fn sum(text: &str, name: &str, label: &str) -> u64 {
    let value = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_meant = (labels.is_empty() || labels.starts_with('{')) && labels.contains(label);
        is_meant.then(|| value.parse().ok())?
    };
    text.lines().filter_map(value).sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_metric_are_summed_and_no_others() {
        let text = "# HELP a_total x\na_total{k=\"v\",l=\"w\"} 3\na_total{k=\"u\"} 4\na_total_more 5\nb 6\n";
        assert_eq!([sum(text, "a_total", ""), sum(text, "a_total", "k=\"v\""), sum(text, "b", "")], [7, 3, 6]);
        assert_eq!(sum(text, "a_total", "k=\"nobody\""), 0);
    }
}
