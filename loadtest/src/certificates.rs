//! Certificates for servers of tests and measurements, of an authority that lives as long as the value.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// One that nobody knows yet.
    pub fn new() -> Result<Self, CertificateError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Writes its own certificate into a folder.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, CertificateError> {
        let path = folder.join("ca.pem");
        put(&path, &self.issuer.pem())?;
        Ok(path)
    }

    /// Writes a certificate for loopback and its key into a folder, as `NAME.pem` and `NAME.key`.
    pub fn issue(&self, folder: &Path, name: &str) -> Result<Files, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        // Of the authority's own name OpenSSL would take it for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = Files { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
        put(&files.certificate, &certificate.pem())?;
        put(&files.key, &key.serialize_pem())?;
        Ok(files)
    }
}

fn put(path: &Path, text: &str) -> Result<(), CertificateError> {
    std::fs::write(path, text).map_err(|source| CertificateError::Write { path: path.to_owned(), source })
}
