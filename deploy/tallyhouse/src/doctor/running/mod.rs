//! `tallyhouse doctor --running`: checks a deployment that runs, and names the runbook of what is wrong.
//!
//! ```text
//! admin ports: /health  -> components that are not up          (components)
//!              /metrics -> figures beyond their bounds         (figures)
//! ClickHouse            -> parts, mutations, room on its disks (store)
//! ```
//!
//! It reads what is there and changes nothing. A service that does not answer is a finding, and the others are looked at all the same. What
//! a page of deploy/prometheus would tell is `failed`, what a ticket would is a `warning`.

mod components;
mod exposition;
mod figures;
mod store;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tallyhouse_service::env::Env;
use tallyhouse_service::http_client::{Endpoint, HttpError};

use self::exposition::Exposition;
use super::{Finding, Findings, Outcome};
use crate::config::AdminPorts;

/// A call of an admin port.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Metrics of a service with many partitions.
const MAX_REPLY_BYTES: usize = 16 << 20;

/// What is to be done about something, by the name of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runbook(pub &'static str);

impl Runbook {
    fn told(self, what: &str) -> String {
        format!("{what}: deploy/runbooks/{}.md", self.0)
    }
}

/// Looks at both services and at ClickHouse.
pub async fn examine(env: &dyn Env) -> Vec<Finding> {
    let mut findings = Findings::default();
    match AdminPorts::from_env(env) {
        Err(error) => findings.add("variables", Outcome::Failed(error.to_string())),
        Ok(ports) => {
            for (what, address, variable) in
                [("ingest", ports.ingest, "INGEST_ADMIN_ADDR"), ("query-api", ports.query, "QUERY_ADMIN_ADDR")]
            {
                match asked(&ports, address).await {
                    Ok((health, metrics)) => service(what, &health, &metrics, &mut findings),
                    Err(problem) => {
                        let told = format!("{address} {problem} ({variable})");
                        findings.add(what, Outcome::Failed(Runbook("instance-down").told(&told)));
                    }
                }
            }
        }
    }
    store::examine(env, &mut findings).await;
    findings.0
}

fn service(what: &'static str, health: &Value, metrics: &Exposition, findings: &mut Findings) {
    let mut found = components::of(health);
    found.extend(figures::of(metrics));
    if found.is_empty() {
        let count = health["components"].as_object().map_or(0, serde_json::Map::len);
        findings.add(what, Outcome::Ok(format!("{count} components are up, and no figure is out of bounds")));
    }
    for outcome in found {
        findings.add(what, outcome);
    }
}

/// `/health` and `/metrics`.
async fn asked(ports: &AdminPorts, address: SocketAddr) -> Result<(Value, Exposition), String> {
    let endpoint = endpoint(ports, address).map_err(|error| error.to_string())?;
    let get = async |path: &str| match endpoint.get(path).await {
        // 503 is the answer of a service that is not ready.
        Ok(reply) if reply.status.is_success() || reply.status.as_u16() == 503 => Ok(reply.body),
        Ok(reply) if reply.status.as_u16() == 401 => Err("does not take this ADMIN_TOKEN".to_owned()),
        Ok(reply) => Err(format!("answers {} on {path}", reply.status)),
        Err(HttpError::TimedOut(_)) => Err(format!("gave no answer within {ANSWER_WITHIN:?}")),
        Err(HttpError::Broken(_)) => Err("does not answer".to_owned()),
        Err(error @ (HttpError::Malformed(_) | HttpError::Tls(_))) => Err(error.to_string()),
    };
    let health = get("/health").await?;
    let health = serde_json::from_slice(&health).map_err(|_| "is not Tallyhouse: its /health is no JSON".to_owned())?;
    let metrics = get("/metrics").await?;
    Ok((health, Exposition::of(&String::from_utf8_lossy(&metrics))))
}

fn endpoint(ports: &AdminPorts, address: SocketAddr) -> Result<Endpoint, HttpError> {
    let address = reachable(address);
    let endpoint = match &ports.tls {
        Some(tls) => Endpoint::over(tls, &format!("https://{address}"), ANSWER_WITHIN)?,
        None => Endpoint::new(&format!("http://{address}"), ANSWER_WITHIN)?,
    };
    let endpoint = endpoint.max_reply_bytes(MAX_REPLY_BYTES);
    match &ports.token {
        Some(token) => endpoint.bearer(token.expose()),
        None => Ok(endpoint),
    }
}

/// Where a port is reached that listens on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match address.ip() {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    if address.ip().is_unspecified() { SocketAddr::new(loopback, address.port()) } else { address }
}
