//! TLS towards others: whom we believe, and who we are there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use hyper_rustls::ConfigBuilderExt as _;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier,
};

use super::identity::Identity;
use super::{TlsError, pem, provider};

/// How a connection is made secure; clones share its sessions.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<ClientConfig>);

/// Why it cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    #[error(transparent)]
    Files(#[from] TlsError),
    /// A slim container has none.
    #[error("this system knows no certificate authority ({0}): install `ca-certificates`, or name a file of them")]
    NoAuthorities(std::io::Error),
    #[error("{0}")]
    Unusable(#[from] rustls::Error),
}

/// A certificate of our own, with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl OwnCertificate {
    /// The text of both files, for clients that read them themselves; they belong together.
    pub fn pem(&self) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
        Identity::pair(&self.certificate, &self.key)?;
        Ok((pem::read(&self.certificate)?, pem::read(&self.key)?))
    }
}

impl ClientTls {
    /// Believes whom the system believes; what it knows is read once. `SSL_CERT_FILE` names another file of them.
    pub fn of_system() -> Result<Self, ClientTlsError> {
        static SYSTEM: OnceLock<ClientTls> = OnceLock::new();
        if let Some(known) = SYSTEM.get() {
            return Ok(known.clone());
        }
        let config = builder()?.with_native_roots().map_err(ClientTlsError::NoAuthorities)?.with_no_client_auth();
        Ok(SYSTEM.get_or_init(|| Self(Arc::new(config))).clone())
    }

    /// Believes only the authorities in a file.
    pub fn of_authorities(file: &Path) -> Result<Self, ClientTlsError> {
        let config = builder()?.with_root_certificates(pem::authorities(file)?).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Believes only whoever shows the first certificate in `file`, whatever name it is asked by: our own server, of whose name nothing is
    /// known beside an address.
    pub fn of_own_server(file: &Path, own: Option<&OwnCertificate>) -> Result<Self, ClientTlsError> {
        let chain = pem::certificates(file)?;
        let certificate = chain.into_iter().next().ok_or(TlsError::NoCertificate { file: file.to_owned() })?;
        let pinned = Pinned { certificate, provider: provider() };
        let builder = builder()?.dangerous().with_custom_certificate_verifier(Arc::new(pinned));
        Ok(Self(Arc::new(named(builder, own)?)))
    }

    /// Believes nobody: for addresses that are not `https://`.
    pub fn of_nobody() -> Result<Self, ClientTlsError> {
        let config = builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()
}

fn named(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    own: Option<&OwnCertificate>,
) -> Result<ClientConfig, ClientTlsError> {
    let Some(OwnCertificate { certificate, key }) = own else { return Ok(builder.with_no_client_auth()) };
    let own = Identity::pair(certificate, key)?;
    Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))))
}

/// One certificate. Whoever shows it also has to have its key: the handshake is signed with it.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *shown == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
