//! TLS: of the listeners, and towards ClickHouse and Redis.

use std::path::PathBuf;
use std::sync::Arc;

use crate::metrics::Registry;
use clap::Args;
use redis::{ClientTlsConfig, TlsCertificates};
use rustls::ClientConfig;

use super::{GivenClickHouse, Redis};
use crate::env::{self, ConfigError, Env, choice, is_set, unused};
use crate::health::Health;
use crate::redis::RedisUrl;
use crate::tls::{self, ClientTls, OpenError, OwnCertificate, ServerFiles, Tls, TlsError, Versions};

/// TLS of all listeners of a process.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
pub struct ListenerTlsSettings {
    /// Certificate of all four listeners, which then speak TLS: a PEM file, the own certificate first, then those between it and the authority.
    /// A changed file is taken within seconds
    #[arg(long, env = "TLS_CERT", value_name = "PATH")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key: a PEM file
    #[arg(long, env = "TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,
    /// The oldest version that is spoken
    #[arg(long, env = "TLS_MIN_VERSION", default_value = "1.3", value_parser = choice::<Versions>(&["1.3", "1.2"]))]
    pub tls_min_version: Versions,
    /// The admin ports take only clients with a certificate of these authorities: a PEM file
    #[arg(long, env = "ADMIN_CLIENT_CA", value_name = "PATH")]
    pub admin_client_ca: Option<PathBuf>,
}

/// What commands show to admin ports.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
pub struct AdminClient {
    /// What commands show where `ADMIN_CLIENT_CA` is asked for: a PEM file
    #[arg(long, env = "ADMIN_CLIENT_CERT", value_name = "PATH")]
    pub admin_client_cert: Option<PathBuf>,
    /// Its private key: a PEM file
    #[arg(long, env = "ADMIN_CLIENT_KEY", value_name = "PATH")]
    pub admin_client_key: Option<PathBuf>,
}

/// What the listeners show; `None` when they speak plain HTTP.
pub fn listener_tls(env: &dyn Env) -> Result<Option<ServerFiles>, ConfigError> {
    let settings: ListenerTlsSettings = env::read(env)?;
    let pair = pair(("TLS_CERT", settings.tls_cert), ("TLS_KEY", settings.tls_key))?;
    match (pair, settings.admin_client_ca) {
        (Some(OwnCertificate { certificate, key }), admin_client_ca) => {
            Ok(Some(ServerFiles { certificate, key, admin_client_ca, versions: settings.tls_min_version }))
        }
        (None, None) => Ok(None),
        // Left out silently it would let in everybody.
        (None, Some(_)) => {
            Err(ConfigError::new("ADMIN_CLIENT_CA", "needs TLS_CERT and TLS_KEY: certificates are shown over TLS"))
        }
    }
}

/// Reads what the listeners show, and keeps it.
pub fn open_tls(files: Option<&ServerFiles>, registry: &Registry, health: &Health) -> Result<Option<Tls>, ConfigError> {
    let Some(files) = files else { return Ok(None) };
    let opened = Tls::open(files.clone(), registry, health);
    opened.map(Some).map_err(|error| match &error {
        OpenError::Files(of_file) => ConfigError::new(tls_variable(files, of_file), error.to_string()),
        OpenError::Metrics(_) => ConfigError::new("TLS_CERT", error.to_string()),
    })
}

/// The variable that names the file of an error.
pub fn tls_variable(files: &ServerFiles, error: &TlsError) -> &'static str {
    match error.file() {
        file if file == files.key => "TLS_KEY",
        file if files.admin_client_ca.as_deref() == Some(file) => "ADMIN_CLIENT_CA",
        _ => "TLS_CERT",
    }
}

/// How commands speak to the listeners of the service whose settings they share; `None` without TLS.
pub fn own_listener(env: &dyn Env) -> Result<Option<ClientTls>, ConfigError> {
    let Some(files) = listener_tls(env)? else { return Ok(None) };
    let client: AdminClient = env::read(env)?;
    let own = pair(("ADMIN_CLIENT_CERT", client.admin_client_cert), ("ADMIN_CLIENT_KEY", client.admin_client_key))?;
    let tls = ClientTls::of_own_server(&files.certificate, own.as_ref());
    tls.map(Some).map_err(|error| ConfigError::new("TLS_CERT", error.to_string()))
}

impl GivenClickHouse {
    /// How it is spoken to; `None` when its URL is plain HTTP.
    pub fn tls(&self) -> Result<Option<Arc<ClientConfig>>, ConfigError> {
        let is_secure = self.clickhouse_url.as_ref().is_some_and(|url| url.starts_with("https://"));
        let (tls, variable) = match (&self.clickhouse_ca, is_secure) {
            (None, false) => return Ok(None),
            (Some(_), false) => {
                return Err(ConfigError::new("CLICKHOUSE_CA", "needs CLICKHOUSE_URL to begin with https://"));
            }
            (Some(file), true) => (ClientTls::of_authorities(file), "CLICKHOUSE_CA"),
            (None, true) => (ClientTls::of_system(), "CLICKHOUSE_CA"),
        };
        tls.map(|tls| Some(tls.config())).map_err(|error| ConfigError::new(variable, error.to_string()))
    }
}

impl Redis {
    /// Where it is, with the certificates that its connections need.
    pub fn url(self) -> Result<Option<RedisUrl>, ConfigError> {
        let own = pair(("REDIS_CLIENT_CERT", self.redis_client_cert), ("REDIS_CLIENT_KEY", self.redis_client_key))?;
        let Some(url) = self.redis_url else { return Ok(None) };
        let certificates = [("REDIS_CA", self.redis_ca.is_some()), ("REDIS_CLIENT_CERT", own.is_some())];
        let set = certificates.into_iter().find(|(_, is_set)| *is_set);
        match (set, url.is_tls()) {
            // What is meant to be secure is not made insecure by a letter.
            (Some((name, _)), false) => Err(ConfigError::new(name, "needs REDIS_URL to begin with rediss")),
            (None, false) => Ok(Some(url)),
            (set, true) => {
                tls::install();
                let named = |name: &'static str| move |error: TlsError| ConfigError::new(name, error.to_string());
                let ca = self.redis_ca.as_deref().map(tls::authorities_pem).transpose().map_err(named("REDIS_CA"))?;
                let own = own.as_ref().map(OwnCertificate::pem).transpose().map_err(named("REDIS_CLIENT_CERT"))?;
                let client_tls = own.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
                let certificates = TlsCertificates { client_tls, root_cert: ca };
                Ok(Some(if set.is_some() { url.with_certificates(certificates) } else { url }))
            }
        }
    }
}

/// Two files that mean nothing without each other.
fn pair(
    (certificate_name, certificate): (&'static str, Option<PathBuf>),
    (key_name, key): (&'static str, Option<PathBuf>),
) -> Result<Option<OwnCertificate>, ConfigError> {
    let missing = |name, other| Err(ConfigError::new(name, format!("is not set, and {other} is: both are needed")));
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(OwnCertificate { certificate, key })),
        (None, None) => Ok(None),
        (None, Some(_)) => missing(certificate_name, key_name),
        (Some(_), None) => missing(key_name, certificate_name),
    }
}

/// A warning for each variable of TLS that is set and does nothing.
pub fn without_tls(env: &dyn Env) -> Vec<String> {
    let groups: [(&str, &[&str], &str); 2] = [
        ("TLS_CERT", &["TLS_MIN_VERSION"], "without TLS_CERT"),
        ("REDIS_URL", &["REDIS_CA", "REDIS_CLIENT_CERT", "REDIS_CLIENT_KEY"], "without REDIS_URL"),
    ];
    let idle = groups.into_iter().filter(|(needed, ..)| !is_set(env, needed));
    idle.flat_map(|(_, names, reason)| unused(env, names, reason)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn refused(pairs: &[(&str, &str)]) -> String {
        let env = env(pairs);
        let read = || {
            listener_tls(&env)?;
            env::read::<GivenClickHouse>(&env)?.tls()?;
            env::read::<Redis>(&env)?.url().map(drop)
        };
        read().unwrap_err().to_string()
    }

    #[test]
    fn half_of_what_secures_is_refused() {
        let cases: [(&[(&str, &str)], &str); 9] = [
            (&[("TLS_CERT", "c")], "TLS_KEY: is not set, and TLS_CERT is: both are needed"),
            (&[("TLS_KEY", "k")], "TLS_CERT: is not set, and TLS_KEY is: both are needed"),
            (
                &[("ADMIN_CLIENT_CA", "a")],
                "ADMIN_CLIENT_CA: needs TLS_CERT and TLS_KEY: certificates are shown over TLS",
            ),
            (&[("TLS_MIN_VERSION", "1.1")], "TLS_MIN_VERSION: `1.1` is not 1.3 or 1.2"),
            (
                &[("CLICKHOUSE_URL", "http://ch:8123"), ("CLICKHOUSE_CA", "/none")],
                "CLICKHOUSE_CA: needs CLICKHOUSE_URL to begin with https://",
            ),
            (
                &[("CLICKHOUSE_URL", "https://ch:8443"), ("CLICKHOUSE_CA", "/none/ca.pem")],
                "CLICKHOUSE_CA: /none/ca.pem: No such file or directory (os error 2)",
            ),
            (
                &[("REDIS_URL", "rediss://r"), ("REDIS_CLIENT_KEY", "k")],
                "REDIS_CLIENT_CERT: is not set, and REDIS_CLIENT_KEY is: both are needed",
            ),
            (
                &[("REDIS_URL", "rediss+cluster://:hunter2@r"), ("REDIS_CA", "/none/ca.pem")],
                "REDIS_CA: /none/ca.pem: No such file or directory (os error 2)",
            ),
            (&[("REDIS_URL", "redis://r"), ("REDIS_CA", "/none")], "REDIS_CA: needs REDIS_URL to begin with rediss"),
        ];
        for (pairs, expected) in cases {
            assert_eq!(refused(pairs), expected);
        }
    }

    #[test]
    fn without_certificates_nothing_is_asked_of_files() {
        let env = env(&[("CLICKHOUSE_URL", "http://ch:8123"), ("REDIS_URL", "rediss://r")]);
        assert_eq!(listener_tls(&env), Ok(None));
        assert!(env::read::<Redis>(&env).unwrap().url().unwrap().unwrap().is_tls());
        assert!(env::read::<GivenClickHouse>(&env).unwrap().tls().unwrap().is_none());
    }
}
