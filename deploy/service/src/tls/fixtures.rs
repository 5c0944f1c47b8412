//! Certificates of tests.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use super::{ServerFiles, Versions};

#[derive(Clone, Copy)]
pub(crate) enum Lifetime {
    /// From and until, in days from now.
    Days(i64, i64),
    Dates((i32, u8, u8), (i32, u8, u8)),
}

pub(crate) struct Issued {
    pub(crate) certificate: Certificate,
    key: KeyPair,
    params: CertificateParams,
}

impl Issued {
    /// Signed by another, or by itself.
    #[allow(clippy::needless_pass_by_value, reason = "a literal of the tests")]
    pub(crate) fn new(names: &[&str], lifetime: Lifetime, issuer: Option<&Issued>) -> Self {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        (params.not_before, params.not_after) = match lifetime {
            Lifetime::Days(from, until) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
                let at = |days: i64| {
                    date_time_ymd(1970, 1, 1) + Duration::from_secs(now.saturating_add_signed(days * 86_400))
                };
                (at(from), at(until))
            }
            Lifetime::Dates(from, until) => {
                let at = |(year, month, day): (i32, u8, u8)| date_time_ymd(year, month, day);
                (at(from), at(until))
            }
        };
        if names.is_empty() {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match issuer {
            Some(issuer) => params.signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key)).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Self { certificate, key, params }
    }

    pub(crate) fn authority() -> Self {
        Self::new(&[], Lifetime::Days(-1, 90), None)
    }

    pub(crate) fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tallyhouse-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The files of a server, later than those that were there before: some file systems count time in ticks.
    pub(crate) fn write(&self, issued: &Issued) -> ServerFiles {
        std::thread::sleep(Duration::from_millis(20));
        let files = ServerFiles {
            certificate: self.0.join("cert.pem"),
            key: self.0.join("key.pem"),
            admin_client_ca: None,
            versions: Versions::Only13,
        };
        std::fs::write(&files.certificate, issued.certificate_pem()).unwrap();
        std::fs::write(&files.key, issued.key_pem()).unwrap();
        files
    }

    pub(crate) fn authority(&self, issued: &Issued) -> PathBuf {
        let file = self.0.join("ca.pem");
        std::fs::write(&file, issued.certificate_pem()).unwrap();
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
