//! TLS for tests: certificates, and a server that ends TLS in front of one that speaks none.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use tallyhouse_loadtest::certificates::{Authority, Files};
use tallyhouse_service::health::Health;
use tallyhouse_service::metrics::Registry;
use tallyhouse_service::tls::{ServerFiles, Tls, Versions};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Ends TLS in front of a server; it goes with the value.
pub struct TlsProxy {
    pub address: SocketAddr,
    running: JoinHandle<()>,
}

impl TlsProxy {
    /// In front of `host:port`.
    pub async fn start(target: &str, shown: &Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, target) = (listener.local_addr().unwrap(), target.to_owned());
        let tls = Tls::open(server_files(shown, None), &Registry::new(), &Health::default()).unwrap().public();
        let running = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (accepted, target) = (tls.accept(stream), target.clone());
                tokio::spawn(async move {
                    let Ok(mut secure) = accepted.await else { return };
                    let Ok(mut plain) = TcpStream::connect(&target).await else { return };
                    // Either side may close at any time.
                    drop(tokio::io::copy_bidirectional(&mut secure, &mut plain).await);
                });
            }
        });
        Self { address, running }
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// What a server shows, and whose clients its admin port takes.
pub fn server_files(shown: &Files, admin_client_ca: Option<&Path>) -> ServerFiles {
    ServerFiles {
        certificate: shown.certificate.clone(),
        key: shown.key.clone(),
        admin_client_ca: admin_client_ca.map(PathBuf::from),
        versions: Versions::Only13,
    }
}
