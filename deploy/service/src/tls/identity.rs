//! The certificate of our listeners with its key, and whether one may take the place of another.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;

use super::validity::Validity;
use super::{ServerFiles, TlsError, pem, provider};

/// What was read at one time.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) validity: Validity,
    /// Who signs the certificates of the admin ports' clients.
    pub(super) admin_clients: Option<Arc<RootCertStore>>,
}

/// How it is with a certificate at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    NotYet,
    Good,
    /// Little of its time is left.
    EndsSoon,
    Over,
}

/// Why a replacement is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Files(#[from] TlsError),
    #[error("{} is not valid before {from}", certificate.display())]
    NotYet { certificate: PathBuf, from: Timestamp },
    #[error("{} ended at {until}", certificate.display())]
    Over { certificate: PathBuf, until: Timestamp },
    #[error("{} ends soon, at {until}, and the one in force does not", certificate.display())]
    EndsSoon { certificate: PathBuf, until: Timestamp },
}

impl Identity {
    pub(super) fn read(files: &ServerFiles) -> Result<Self, TlsError> {
        let ServerFiles { certificate, key, admin_client_ca, .. } = files;
        let certified = Self::pair(certificate, key)?;
        let validity = certified.cert.first().and_then(|own| Validity::of(own));
        let not_one =
            || TlsError::Unusable { file: certificate.clone(), problem: "it is not a certificate".to_owned() };
        let admin_clients = admin_client_ca.as_deref().map(pem::authorities).transpose()?;
        Ok(Self {
            certified: Arc::new(certified),
            validity: validity.ok_or_else(not_one)?,
            admin_clients: admin_clients.map(Arc::new),
        })
    }

    /// A chain and the key of its first certificate.
    pub(super) fn pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
        let unusable = |file: &Path, problem| TlsError::Unusable { file: file.to_owned(), problem };
        let chain = pem::certificates(certificate)?;
        CertifiedKey::from_der(chain, pem::key(key)?, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
            }
            rustls::Error::General(problem) => unusable(key, problem),
            error => unusable(certificate, error.to_string()),
        })
    }

    pub(super) fn age(&self, now: Timestamp) -> Age {
        age(self.validity, now)
    }

    /// This one as the next of another, or why not. One that is no better than what is in force is still taken.
    pub(super) fn after(self, in_force: &Self, files: &ServerFiles, now: Timestamp) -> Result<Self, Refused> {
        let certificate = files.certificate.clone();
        let Validity { from, until } = self.validity;
        match (self.age(now), in_force.age(now)) {
            (Age::Good, _) => Ok(self),
            (own, before) if own == before => Ok(self),
            (Age::NotYet, _) => Err(Refused::NotYet { certificate, from }),
            (Age::Over, _) => Err(Refused::Over { certificate, until }),
            (Age::EndsSoon, Age::Good) => Err(Refused::EndsSoon { certificate, until }),
            (Age::EndsSoon, _) => Ok(self),
        }
    }

    /// What is wrong with its time.
    pub(super) fn trouble(&self, now: Timestamp) -> Option<String> {
        let Validity { from, until } = self.validity;
        match self.age(now) {
            Age::Good => None,
            Age::NotYet => Some(format!("the certificate is not valid before {from}")),
            Age::EndsSoon => Some(format!("the certificate ends in {:.1} days, at {until}", self.days_left(now))),
            Age::Over => Some(format!("the certificate ended at {until}: clients refuse it")),
        }
    }

    /// Days until the end, below zero afterwards.
    pub(super) fn days_left(&self, now: Timestamp) -> f64 {
        self.validity.until.duration_since(now).as_secs_f64() / 86_400.0
    }
}

fn age(Validity { from, until }: Validity, now: Timestamp) -> Age {
    const SOON: Duration = Duration::from_secs(14 * 86_400);
    let whole = until.duration_since(from).unsigned_abs();
    let left = until.duration_since(now);
    match () {
        () if now < from => Age::NotYet,
        () if left.is_negative() || left.is_zero() => Age::Over,
        // A certificate of a day or an hour is renewed as late in its time as one of a year.
        () if left.unsigned_abs() < (whole / 10).min(SOON) => Age::EndsSoon,
        () => Age::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Folder, Issued, Lifetime};
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3_600).unwrap()
    }

    #[test]
    fn what_ends_soon_depends_on_how_long_it_is_valid() {
        let of = |hours: i64, now: i64| age(Validity { from: at(0), until: at(hours) }, at(now));
        assert_eq!([of(8_760, -1), of(8_760, 0), of(8_760, 8_423)], [Age::NotYet, Age::Good, Age::Good]);
        assert_eq!([of(8_760, 8_425), of(8_760, 8_759), of(8_760, 8_760)], [Age::EndsSoon, Age::EndsSoon, Age::Over]);
        // Of a day: the last 2.4 hours.
        assert_eq!([of(24, 21), of(24, 22)], [Age::Good, Age::EndsSoon]);
    }

    fn read(folder: &Folder, lifetime: Lifetime) -> (Identity, ServerFiles) {
        let files = folder.write(&Issued::new(&["localhost"], lifetime, None));
        (Identity::read(&files).unwrap(), files)
    }

    #[test]
    fn only_what_is_as_good_takes_the_place_of_another() {
        let folder = Folder::new("replacement");
        let now = Timestamp::now();
        let (good, _) = read(&folder, Lifetime::Days(-1, 90));
        let (over, _) = read(&folder, Lifetime::Days(-90, -1));
        let cases = [
            (Lifetime::Days(-1, 30), Ok(()), Ok(())),
            (Lifetime::Days(-89, 1), Err("ends soon"), Ok(())),
            (Lifetime::Days(-90, -2), Err("ended at"), Ok(())),
            (Lifetime::Days(2, 90), Err("is not valid before"), Err("is not valid before")),
        ];
        for (lifetime, after_good, after_over) in cases {
            let (new, files) = read(&folder, lifetime);
            for (before, expected) in [(&good, after_good), (&over, after_over)] {
                match (new.clone().after(before, &files, now), expected) {
                    (Ok(_), Ok(())) => {}
                    (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                    (taken, expected) => panic!("{:?} instead of {expected:?}", taken.map(|_| ())),
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_names_the_file() {
        let folder = Folder::new("wrong");
        let (one, other) =
            (Issued::new(&["a"], Lifetime::Days(-1, 9), None), Issued::new(&["a"], Lifetime::Days(-1, 9), None));
        let files = folder.write(&one);
        let problem = |certificate: &str, key: &str| {
            std::fs::write(&files.certificate, certificate).unwrap();
            std::fs::write(&files.key, key).unwrap();
            Identity::read(&files).map(drop).unwrap_err().to_string()
        };
        let (certificate, key) = (one.certificate_pem(), one.key_pem());
        assert!(problem(&certificate, &other.key_pem()).contains("is not the key of the first certificate in"));
        assert!(problem("", &key).contains("holds no certificate"));
        assert!(problem(&certificate, &certificate).contains("holds no private key"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(problem(broken, &key).contains("cert.pem cannot be used"), "{}", problem(broken, &key));
        assert!(problem(certificate.get(..certificate.len() / 2).unwrap(), &key).contains("is not PEM"));
        let other_key = problem(&certificate, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        assert!(other_key.contains("key.pem cannot be used"), "{other_key}");
        std::fs::remove_file(&files.key).unwrap();
        assert!(Identity::read(&files).unwrap_err().to_string().contains("key.pem: No such file"));
    }
}
