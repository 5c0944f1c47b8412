//! What a listener does a handshake with: one configuration at a time, which a replacement exchanges.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::identity::Identity;
use super::{TlsError, Versions, provider};

/// TLS of one listener; clones share it. Handshakes that begin after a replacement see the new certificate.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    current: Current,
    _watching: Arc<Watching>,
}

/// What handshakes are done with from now on.
#[derive(Debug, Clone)]
pub(super) struct Current(Arc<ArcSwap<ServerConfig>>);

/// The task that looks at the files: it ends with the last listener.
#[derive(Debug)]
pub(super) struct Watching(pub(super) JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clients {
    Any,
    /// Those with a certificate of `ADMIN_CLIENT_CA`, when there is one.
    Admin,
}

impl Current {
    pub(super) fn new(config: ServerConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    pub(super) fn replace(&self, config: ServerConfig) {
        self.0.store(Arc::new(config));
    }
}

impl ListenerTls {
    pub(super) fn new(current: Current, watching: &Arc<Watching>) -> Self {
        Self { current, _watching: Arc::clone(watching) }
    }

    /// Begins the handshake of a connection.
    pub fn accept(&self, stream: TcpStream) -> Accept<TcpStream> {
        TlsAcceptor::from(self.current.0.load_full()).accept(stream)
    }
}

/// An established connection.
pub(crate) type Accepted = TlsStream<TcpStream>;

pub(super) fn config(identity: &Identity, versions: Versions, clients: Clients) -> Result<ServerConfig, ConfigProblem> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&versions.supported())?;
    let authorities = identity.admin_clients.as_ref().filter(|_| clients == Clients::Admin);
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| ConfigProblem(error.to_string()))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified))));
    // HTTP/2 is not spoken: its streams are bounded by other rules than connections.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if authorities.is_some() {
        // A ticket would let in whose certificate has ended since, or whose authority was taken away.
        config.send_tls13_tickets = 0;
    } else {
        // Tickets instead of a table of sessions: a client that comes back costs no signature, and nothing is kept for it.
        config.ticketer = Ticketer::new()?;
        config.send_tls13_tickets = 1;
    }
    Ok(config)
}

/// What rustls does not take.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ConfigProblem(String);

impl From<rustls::Error> for ConfigProblem {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

impl ConfigProblem {
    pub(super) fn of(self, file: &std::path::Path) -> TlsError {
        TlsError::Unusable { file: file.to_owned(), problem: self.0 }
    }
}
