//! What `tallyhouse erase` and `erasures` do by a query service (`TALLYHOUSE_URL`), which works on the erasures.

use std::time::Duration;

use serde_json::{Value, json};
use tallyhouse_control::privacy::erasure::Person;
use tallyhouse_service::env::Env;
use tokio::time::sleep;

use super::remote::{Remote, below, with_query};
use super::{AdministrationError, RemoteError};
use crate::config;

const ERASURES: &str = "/v1/privacy/erasures";

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The erasures of a query service.
pub struct RemoteErasures(Remote);

impl RemoteErasures {
    /// `None`: no service is named.
    pub fn open(env: &dyn Env) -> Result<Option<Self>, AdministrationError> {
        let Some(remote) = config::remote(env)? else { return Ok(None) };
        Ok(Some(Self(Remote::new(&remote)?)))
    }

    /// Asks for an erasure. Gives the job.
    pub async fn request(&self, project: &str, person: &Person, keep_suppressed: bool) -> Result<Value, RemoteError> {
        let Person { user_id, anonymous_id } = person;
        let body = json!({"userId": user_id, "anonymousId": anonymous_id, "keepSuppressed": keep_suppressed});
        self.0.post(&with_query(ERASURES, &[("project", project)]), &body).await
    }

    /// A job.
    pub async fn find(&self, project: &str, id: &str) -> Result<Value, RemoteError> {
        self.0.read(&with_query(&below(ERASURES, &[id]), &[("project", project)])).await
    }

    /// Waits until a job is done.
    pub async fn done(&self, project: &str, id: &str) -> Result<Value, RemoteError> {
        loop {
            let job = self.find(project, id).await?;
            if job.get("state").and_then(Value::as_str) == Some("done") {
                return Ok(job);
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
