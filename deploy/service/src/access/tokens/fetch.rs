//! Gets the keys of a provider. One answer: no redirect is followed, since it could lead to anybody's keys.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;

/// Providers have a few KB.
const MAX_BYTES: usize = 256 * 1024;

/// The provider's keys did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("it did not answer within {0:?}")]
    Late(Duration),
    #[error("the connection failed: {0}")]
    Broken(String),
    #[error("it answered {0} instead of 200; redirects are not followed")]
    Status(StatusCode),
    #[error("its answer broke off, or has more than {MAX_BYTES} bytes")]
    Body,
}

pub(super) struct Fetch {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    uri: Uri,
}

impl Fetch {
    /// Reads the certificates of the system, when they are needed.
    pub(super) fn new(uri: Uri) -> io::Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = HttpsConnectorBuilder::new();
        let builder = match uri.scheme_str() {
            Some("https") => builder.with_provider_and_native_roots(provider)?.https_only(),
            _ => builder.with_tls_config(without_roots(provider)?).https_or_http(),
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let client = Client::builder(TokioExecutor::new())
            // Ten minutes lie between two fetches.
            .pool_max_idle_per_host(0)
            .build(builder.enable_http1().wrap_connector(http));
        Ok(Self { client, uri })
    }

    /// From the name of the host to the last byte within this time.
    pub(super) async fn get(&self, within: Duration) -> Result<Bytes, FetchError> {
        tokio::time::timeout(within, self.exchange()).await.unwrap_or(Err(FetchError::Late(within)))
    }

    async fn exchange(&self) -> Result<Bytes, FetchError> {
        let request = Request::get(&self.uri).header(header::ACCEPT, "application/json").body(Empty::new());
        let request = request.map_err(|error| FetchError::Broken(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| FetchError::Broken(causes(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|_| FetchError::Body)
    }
}

/// For `http`, which asks nobody for a certificate.
fn without_roots(provider: Arc<rustls::crypto::CryptoProvider>) -> io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

/// What hyper says, and why.
fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", causes(cause)),
        None => error.to_string(),
    }
}
