//! The forms of a URL of Redis.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};

/// Where Redis is, and how to get in. May hold a password, so it prints none of it.
#[derive(Clone)]
pub struct RedisUrl {
    pub(super) topology: Topology,
    /// Certificates for TLS, instead of those of the machine.
    pub(super) certificates: Option<TlsCertificates>,
}

/// How many servers, and who knows them.
#[derive(Clone)]
pub(super) enum Topology {
    Single(ConnectionInfo),
    Sentinel(Sentinels),
    /// Some of the nodes.
    Cluster(Vec<ConnectionInfo>),
}

/// Sentinels, and what the servers that they watch ask for.
#[derive(Clone)]
pub(super) struct Sentinels {
    pub(super) sentinels: Vec<ConnectionInfo>,
    /// The name under which they watch the master.
    pub(super) master: String,
    /// Credentials, database and TLS of the servers; the address is nobody's.
    pub(super) server: ConnectionInfo,
}

/// Why a URL cannot be used. Tells nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRedisUrl {
    #[error(
        "is not a Redis URL, such as redis://127.0.0.1:6379, redis+sentinel://a:26379,b:26379/mymaster or \
         redis+cluster://a:6379,b:6379; `rediss` is Redis over TLS"
    )]
    Form,
    #[error("names no master: the form is redis+sentinel://a:26379,b:26379/mymaster")]
    NoMaster,
    #[error("names a database, and a Redis Cluster has only one: leave out what follows the hosts")]
    DatabaseOfCluster,
    #[error(
        "`{0}` is not a parameter of it; there are `sentinel_user` and `sentinel_password`, of `redis+sentinel://`"
    )]
    UnknownParameter(String),
}

impl RedisUrl {
    /// The same with certificates for TLS.
    #[must_use]
    pub fn with_certificates(self, certificates: TlsCertificates) -> Self {
        Self { certificates: Some(certificates), ..self }
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        let info = match &self.topology {
            Topology::Single(info) => Some(info),
            Topology::Sentinel(sentinels) => Some(&sentinels.server),
            Topology::Cluster(nodes) => nodes.first(),
        };
        info.is_some_and(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match &self.topology {
            Topology::Single(_) => "redis://***",
            Topology::Sentinel(_) => "redis+sentinel://***",
            Topology::Cluster(_) => "redis+cluster://***",
        };
        f.write_str(form)
    }
}

impl FromStr for RedisUrl {
    type Err = BadRedisUrl;

    fn from_str(text: &str) -> Result<Self, BadRedisUrl> {
        let text = text.trim();
        let topology = match text.split_once("://") {
            Some(("redis" | "rediss", _)) => Topology::Single(info(text)?),
            Some((scheme @ ("redis+sentinel" | "rediss+sentinel"), rest)) => {
                Topology::Sentinel(sentinels(scheme.trim_end_matches("+sentinel"), rest)?)
            }
            Some((scheme @ ("redis+cluster" | "rediss+cluster"), rest)) => {
                Topology::Cluster(cluster(scheme.trim_end_matches("+cluster"), rest)?)
            }
            _ => return Err(BadRedisUrl::Form),
        };
        Ok(Self { topology, certificates: None })
    }
}

/// What follows the scheme.
struct Pieces<'a> {
    /// `user:password@`, or nothing.
    credentials: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    query: &'a str,
}

impl<'a> Pieces<'a> {
    fn of(rest: &'a str) -> Result<Self, BadRedisUrl> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // A password may hold `@` only as `%40`, and a `/` only as `%2F`.
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = match authority.rfind('@') {
            Some(at) => authority.split_at(at + 1),
            None => ("", authority),
        };
        let hosts: Vec<&str> = hosts.split(',').map(str::trim).collect();
        if hosts.iter().any(|host| host.is_empty()) {
            return Err(BadRedisUrl::Form);
        }
        Ok(Self { credentials, hosts, path, query })
    }
}

fn sentinels(scheme: &str, rest: &str) -> Result<Sentinels, BadRedisUrl> {
    let Pieces { credentials, hosts, path, query } = Pieces::of(rest)?;
    let (master, database) = path.split_once('/').unwrap_or((path, ""));
    if master.is_empty() {
        return Err(BadRedisUrl::NoMaster);
    }
    let (mut user, mut password) = ("", None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_user", value)) => user = value,
            Some(("sentinel_password", value)) => password = Some(value),
            _ => return Err(unknown(pair)),
        }
    }
    let own = password.map_or(String::new(), |password| format!("{user}:{password}@"));
    let of = |host: &&str| info(&format!("{scheme}://{own}{}", with_port(host, 26_379)));
    Ok(Sentinels {
        sentinels: hosts.iter().map(of).collect::<Result<_, _>>()?,
        master: master.to_owned(),
        server: info(&format!("{scheme}://{credentials}localhost/{database}"))?,
    })
}

fn cluster(scheme: &str, rest: &str) -> Result<Vec<ConnectionInfo>, BadRedisUrl> {
    let Pieces { credentials, hosts, path, query } = Pieces::of(rest)?;
    if !matches!(path, "" | "0") {
        return Err(BadRedisUrl::DatabaseOfCluster);
    }
    if let Some(pair) = query.split('&').find(|pair| !pair.is_empty()) {
        return Err(unknown(pair));
    }
    hosts.iter().map(|host| info(&format!("{scheme}://{credentials}{host}"))).collect()
}

/// The name alone: the value may be a secret.
fn unknown(pair: &str) -> BadRedisUrl {
    let name = pair.split('=').next().unwrap_or_default();
    BadRedisUrl::UnknownParameter(name.chars().filter(char::is_ascii_graphic).take(40).collect())
}

fn with_port(host: &str, port: u16) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(name, _)| !name.contains(':') || name.ends_with(']'));
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

fn info(url: &str) -> Result<ConnectionInfo, BadRedisUrl> {
    url.into_connection_info().map_err(|_| BadRedisUrl::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<RedisUrl, BadRedisUrl> {
        url.parse()
    }

    #[test]
    fn one_server() {
        let Topology::Single(info) = read(" redis://:p%40ss@h:7/3 ").unwrap().topology else { panic!() };
        assert_eq!(info.addr().to_string(), "h:7");
        assert_eq!((info.redis_settings().password(), info.redis_settings().db()), (Some("p@ss"), 3));
        assert!(read("rediss://h").unwrap().is_tls() && !read("redis://h").unwrap().is_tls());
    }

    #[test]
    fn sentinels_and_the_master_that_they_watch() {
        let url = "redis+sentinel://u:pw@a,b:1,[::1]/main/2?sentinel_user=s&sentinel_password=t";
        let Topology::Sentinel(read) = read(url).unwrap().topology else { panic!() };
        let hosts: Vec<String> = read.sentinels.iter().map(|info| info.addr().to_string()).collect();
        assert_eq!(hosts, ["a:26379", "b:1", "::1:26379"]);
        let of_sentinel = read.sentinels[0].redis_settings();
        assert_eq!((of_sentinel.username(), of_sentinel.password()), (Some("s"), Some("t")));
        let server = read.server.redis_settings();
        assert_eq!((read.master.as_str(), server.username(), server.password()), ("main", Some("u"), Some("pw")));
        assert_eq!(server.db(), 2);
    }

    #[test]
    fn nodes_of_a_cluster() {
        let Topology::Cluster(nodes) = read("rediss+cluster://:pw@a:7000,b").unwrap().topology else { panic!() };
        let hosts: Vec<String> = nodes.iter().map(|info| info.addr().to_string()).collect();
        assert_eq!(hosts, ["a:7000", "b:6379"]);
        assert!(nodes.iter().all(|node| node.redis_settings().password() == Some("pw")));
        assert!(read("rediss+cluster://a").unwrap().is_tls());
    }

    #[test]
    fn a_url_that_is_none_is_explained_without_its_password() {
        for (url, expected) in [
            ("", BadRedisUrl::Form),
            ("127.0.0.1:6379", BadRedisUrl::Form),
            ("http://a", BadRedisUrl::Form),
            ("redis+cluster://", BadRedisUrl::Form),
            ("redis+cluster://a,,b", BadRedisUrl::Form),
            ("redis+cluster://a/3", BadRedisUrl::DatabaseOfCluster),
            ("redis+cluster://a?x=hunter2", BadRedisUrl::UnknownParameter("x".into())),
            ("redis+sentinel://a:1", BadRedisUrl::NoMaster),
            ("redis+sentinel://a:1/m?password=hunter2", BadRedisUrl::UnknownParameter("password".into())),
            ("redis+sentinel://:hunter2@a:b/m", BadRedisUrl::Form),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error, expected, "{url}");
            assert!(!error.to_string().contains("hunter2"));
        }
        assert_eq!(format!("{:?}", read("redis://:hunter2@h").unwrap()), "redis://***");
    }
}
