//! An S3 that buckets of tests are in: moto's server, set up by `deploy/tallyhouse/setup.sh --tests`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use tallyhouse_service::http_client::Endpoint;

use crate::ports::free_ports;
use crate::skip::skipped;
use crate::wait::eventually;

/// It looks who asks, and not whether it is.
const WHO: &str =
    "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none";

/// A server of its own, with one bucket.
pub struct S3 {
    process: Child,
    pub url: String,
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl S3 {
    /// `None`, told by the test's name, when moto is not there.
    pub async fn start(test: &str, bucket: &str) -> Option<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.setup/s3/bin/moto_server");
        if !program.exists() {
            skipped(test, "moto is not set up: `deploy/tallyhouse/setup.sh --tests`");
            return None;
        }
        let [port] = free_ports();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let s3 = Self { process: command.spawn().unwrap(), url: format!("http://127.0.0.1:{port}") };
        let path = format!("/{bucket}");
        eventually("there is a bucket", async || s3.call(Method::PUT, &path, "").await == Some(200)).await;
        Some(s3)
    }

    /// The status of an answer.
    pub async fn call(&self, method: Method, path: &str, body: &str) -> Option<u16> {
        let endpoint = Endpoint::new(&self.url, Duration::from_secs(10)).unwrap();
        let endpoint = endpoint.header(hyper::header::AUTHORIZATION, WHO).unwrap();
        let reply = endpoint.send(method, path, Bytes::from(body.to_owned())).await;
        reply.ok().map(|reply| reply.status.as_u16())
    }

    /// How many objects a bucket holds below a prefix, 1,000 at most.
    pub async fn objects(&self, bucket: &str, prefix: &str) -> usize {
        let endpoint = Endpoint::new(&self.url, Duration::from_secs(10)).unwrap();
        let endpoint = endpoint.header(hyper::header::AUTHORIZATION, WHO).unwrap();
        let reply = endpoint.get(&format!("/{bucket}?list-type=2&prefix={prefix}")).await.unwrap();
        String::from_utf8_lossy(&reply.body).matches("<Key>").count()
    }
}
