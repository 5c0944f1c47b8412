//! TLS by rustls: of our listeners, and towards ClickHouse, Redis and other HTTP servers.
//!
//! ```text
//! TLS_CERT, TLS_KEY, ADMIN_CLIENT_CA -> identity -> ListenerTls: public | admin      (`server/` does the handshakes)
//!        '- looked at every second; stood still, whole, not ending sooner -> takes its place: connections that are open go on
//!                                  '- else the one before stays, an error is logged, `/health` says so
//! CLICKHOUSE_CA, REDIS_CA, … -> ClientTls -> a connection that trusts these, or the system's
//! ```
//!
//! Failure cases:
//! * at the start a file is missing, broken, or the key is not the certificate's: the program does not start, and names the variable;
//! * files are replaced one after the other: they are read when none has changed for a second. A pair that does not match is refused, once;
//! * a replacement is broken, over, not valid yet, or about to end while the one in force is not: the one in force stays. The files
//!   are read again when they change again;
//! * the certificate comes to its end: `/health` says so from a tenth of its time on, at most 14 days before, and it goes on being served: clients
//!   refuse it, not we.
//!
//! One provider of cryptography, aws-lc-rs, is named wherever rustls is built: which one a process has by default depends on what its
//! dependencies switch on.

mod client;
mod identity;
mod keeper;
mod listener;
mod pem;
pub mod telemetry;
mod validity;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};

pub use self::client::{ClientTls, ClientTlsError, OwnCertificate};
pub use self::keeper::{OpenError, Tls};
pub(crate) use self::listener::Accepted;
pub use self::listener::ListenerTls;

/// Why files are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{} has more than {} KiB: it is another file", file.display(), pem::MOST_BYTES >> 10)]
    TooLarge { file: PathBuf },
    #[error("{} is not PEM: {problem}", file.display())]
    NotPem { file: PathBuf, problem: String },
    #[error("{} holds no certificate (`-----BEGIN CERTIFICATE-----`)", file.display())]
    NoCertificate { file: PathBuf },
    #[error("{} holds no private key (`-----BEGIN PRIVATE KEY-----`; one with a password is not taken)", file.display())]
    NoKey { file: PathBuf },
    #[error("{} is not the key of the first certificate in {}", key.display(), certificate.display())]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("{} cannot be used: {problem}", file.display())]
    Unusable { file: PathBuf, problem: String },
}

impl TlsError {
    /// The file that is wrong.
    pub fn file(&self) -> &Path {
        match self {
            Self::Read { file, .. }
            | Self::TooLarge { file }
            | Self::NotPem { file, .. }
            | Self::NoCertificate { file }
            | Self::NoKey { file }
            | Self::Unusable { file, .. }
            | Self::Mismatch { key: file, .. } => file,
        }
    }
}

/// Which versions of TLS listeners speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Versions {
    #[default]
    Only13,
    From12,
}

impl Versions {
    fn supported(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Self::Only13 => vec![&TLS13],
            Self::From12 => vec![&TLS13, &TLS12],
        }
    }
}

impl std::str::FromStr for Versions {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "1.3" => Ok(Self::Only13),
            "1.2" => Ok(Self::From12),
            _ => Err(()),
        }
    }
}

/// What the listeners of a process show, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// A chain, the server's own certificate first.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whose certificates clients of the admin ports need; without it they need none.
    pub admin_client_ca: Option<PathBuf>,
    pub versions: Versions,
}

impl ServerFiles {
    /// Reads them once: until when the certificate is valid, and what is wrong with its time.
    pub fn examine(&self) -> Result<(Timestamp, Option<String>), TlsError> {
        let identity = identity::Identity::read(self)?;
        Ok((identity.validity.until, identity.trouble(Timestamp::now())))
    }
}

/// The text of a file of authorities, for clients that read it themselves.
pub fn authorities_pem(file: &Path) -> Result<Vec<u8>, TlsError> {
    pem::authorities(file)?;
    pem::read(file)
}

/// Names the provider for clients that build rustls themselves. Whichever was named first stays.
pub fn install() {
    if CryptoProvider::get_default().is_none() {
        // Lost against another thread that did the same.
        drop(aws_lc_rs::default_provider().install_default());
    }
}

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
pub(crate) mod fixtures;
