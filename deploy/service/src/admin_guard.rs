//! Who may ask an admin port, and from where.
//!
//! An admin port has no users. It is on loopback, where everything that runs on the machine may ask it, and so may every web page in a
//! browser on it:
//!
//! ```text
//! request -> Host is ours? -> the token, when there is one -> changes something? -> from a page of another site? -> JSON? -> handler
//!            403 unknown_host  401 admin_token_missing, _wrong                      403 cross_site                 415
//! ```
//!
//! * **Host.** A page whose name leads to this machine by now (DNS rebinding) is of the same origin as the admin port for its browser, so it reads
//!   everything. Its requests name it. Taken are loopback names, the address that the port listens on (any address when it listens on all:
//!   only a name can be led elsewhere), and the names of `ADMIN_HOSTS`. A request without a name is no browser's: probes of HTTP/1.0 send none.
//! * **Token.** With `ADMIN_TOKEN` every path asks for `Authorization: Bearer`, but `/health/live` and `/health/ready`: orchestrators cannot send
//!   one, and these say only yes or no. Prometheus sends it (`authorization: credentials:`). An address that others reach needs a
//!   token: without one the process does not start.
//! * **Cross-site.** A page can send a form or text to any address without asking. Whatever changes something takes JSON alone, for which a
//!   browser asks first (a preflight, which nothing here answers), and refuses what a browser says is of another site.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::http::{Problem, with_security_headers};
use crate::secret::Secret;

/// Paths that need no token.
const PROBES: [&str; 2] = ["/health/live", "/health/ready"];

/// Keeps strangers and web pages from an admin port.
#[derive(Debug, Clone)]
pub struct AdminGuard {
    /// SHA-256 of the token: compared in constant time whatever its length.
    token: Option<[u8; 32]>,
    /// Where it listens.
    address: IpAddr,
    /// In lower case.
    hosts: Arc<[String]>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    UnknownHost,
    TokenMissing,
    TokenWrong,
    CrossSite,
    NotJson,
}

/// An admin port that others reach, without a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} can be reached from other machines: set ADMIN_TOKEN, or listen on 127.0.0.1")]
pub struct Unprotected(SocketAddr);

impl AdminGuard {
    /// Of the port at `address`.
    pub fn new(address: SocketAddr, token: Option<&Secret>, hosts: &[String]) -> Result<Self, Unprotected> {
        if token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(Unprotected(address));
        }
        Ok(Self {
            token: token.map(|token| digest(token.expose())),
            address: address.ip().to_canonical(),
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        })
    }

    /// Of a port on loopback without a token.
    pub fn loopback() -> Self {
        Self { token: None, address: IpAddr::V4(Ipv4Addr::LOCALHOST), hosts: Arc::new([]) }
    }

    /// Every route, also what is not found, behind the guard.
    pub fn protect(self, router: Router) -> Router {
        with_security_headers(router.layer(middleware::from_fn_with_state(self, guard)))
    }

    fn judge(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
        let named = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
        if !uri.authority().map(|authority| authority.as_str()).into_iter().chain(named).all(|host| self.knows(host)) {
            return Err(Refused::UnknownHost);
        }
        if !PROBES.contains(&uri.path()) {
            self.token_of(headers)?;
        }
        let changes_nothing = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
        if changes_nothing { Ok(()) } else { self.may_change(method, headers) }
    }

    fn token_of(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let Some(expected) = &self.token else { return Ok(()) };
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        match sent {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                let is_right = bool::from(expected.ct_eq(&digest(token.trim())));
                if is_right { Ok(()) } else { Err(Refused::TokenWrong) }
            }
            _ => Err(Refused::TokenMissing),
        }
    }

    fn may_change(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refused> {
        let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
        if !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(Refused::CrossSite);
        }
        // Nothing here serves a page, so a page is always another one's, also of this machine.
        if headers.contains_key(header::ORIGIN) {
            return Err(Refused::CrossSite);
        }
        match headers.get(header::CONTENT_TYPE) {
            Some(kind) if is_json(kind.to_str().unwrap_or_default()) => Ok(()),
            // Without a body there is nothing to be of a type, and no page sends this method without asking first.
            None if method == Method::DELETE => Ok(()),
            _ => Err(Refused::NotJson),
        }
    }

    fn knows(&self, host: &str) -> bool {
        let name = name_of(host).to_ascii_lowercase();
        let is_loopback = name == "localhost" || name.ends_with(".localhost");
        is_loopback || address_of(&name).is_some_and(|address| self.is_ours(address)) || self.hosts.contains(&name)
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.address.is_unspecified() || address == self.address
    }
}

/// Without the port.
fn name_of(host: &str) -> &str {
    let host = host.trim();
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
    .trim_end_matches('.')
}

fn address_of(name: &str) -> Option<IpAddr> {
    let address: IpAddr = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok()?.into(),
        None => name.parse::<Ipv4Addr>().ok()?.into(),
    };
    Some(address.to_canonical())
}

fn is_json(kind: &str) -> bool {
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

async fn guard(State(guard): State<AdminGuard>, request: Request, next: Next) -> Response {
    match guard.judge(request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::UnknownHost => (
                StatusCode::FORBIDDEN,
                "unknown_host",
                "ask as localhost or by the address that is listened on, or name this host in ADMIN_HOSTS",
            ),
            Self::TokenMissing => (
                StatusCode::UNAUTHORIZED,
                "admin_token_missing",
                "send the token of ADMIN_TOKEN as `Authorization: Bearer TOKEN`",
            ),
            Self::TokenWrong => (StatusCode::UNAUTHORIZED, "admin_token_wrong", "this is not the token of ADMIN_TOKEN"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "cross_site", "no web page may change anything here; use curl"),
            Self::NotJson => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unknown_media_type",
                "send JSON with `Content-Type: application/json`",
            ),
        };
        let mut response = Problem::new(status, code, message).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    const JSON: (&str, &str) = ("content-type", "application/json");

    fn guard() -> AdminGuard {
        AdminGuard::new("127.0.0.1:9081".parse().unwrap(), None, &["Metrics.Internal".to_owned()]).unwrap()
    }

    fn judged(guard: &AdminGuard, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<(), Refused> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        guard.judge(&method.parse().unwrap(), &path.parse().unwrap(), &map)
    }

    #[test]
    fn only_our_own_names_are_taken() {
        let asked = |headers: &[(&str, &str)]| judged(&guard(), "GET", "/metrics", headers);
        for host in [
            "localhost",
            "LOCALHOST:9081",
            "localhost.",
            "a.localhost:1",
            "127.0.0.1:9081",
            "127.1.2.3",
            "[::1]:9081",
            "[::1]",
            "metrics.internal:80",
            "METRICS.internal.",
        ] {
            assert_eq!(asked(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            ":9081",
            "evil:9081:1",
            "[evil]",
            "notlocalhost",
            "127.0.0.1@evil.example",
            "10.0.0.5:9081",
            "metrics.internal.evil.example",
            "\u{fe}",
        ] {
            assert_eq!(asked(&[("host", host)]), Err(Refused::UnknownHost), "{host:?}");
        }
        assert_eq!(asked(&[]), Ok(()), "a probe of HTTP/1.0");
        let token = Secret::new("a-token-of-sixteen");
        let sent = ("authorization", "Bearer a-token-of-sixteen");
        for (listens, host, is_known) in [
            ("10.0.0.5:9081", "10.0.0.5:9081", true),
            ("10.0.0.5:9081", "10.0.0.6:9081", false),
            ("0.0.0.0:9081", "10.0.0.6:9081", true),
            ("[::]:9081", "[fd00::1]:9081", true),
            ("[::]:9081", "evil.example", false),
            ("10.0.0.5:9081", "localhost", true),
        ] {
            let guard = AdminGuard::new(listens.parse().unwrap(), Some(&token), &[]).unwrap();
            assert_eq!(
                judged(&guard, "GET", "/metrics", &[("host", host), sent]).is_ok(),
                is_known,
                "{host} at {listens}"
            );
        }
        assert_eq!(asked(&[("host", "localhost"), ("host", "evil.example")]), Err(Refused::UnknownHost));
        let absolute = judged(&guard(), "GET", "http://evil.example/metrics", &[("host", "localhost")]);
        assert_eq!(absolute, Err(Refused::UnknownHost));
    }

    #[test]
    fn what_changes_something_is_json_of_no_other_site() {
        let host = ("host", "localhost:9082");
        let asked =
            |method, headers: &[(&str, &str)]| judged(&guard(), method, "/v1/touched", &[&[host], headers].concat());
        assert_eq!(asked("POST", &[JSON]), Ok(()));
        assert_eq!(asked("POST", &[("content-type", "Application/JSON; charset=utf-8")]), Ok(()));
        assert_eq!(asked("DELETE", &[]), Ok(()));
        assert_eq!(asked("POST", &[JSON, ("sec-fetch-site", "none")]), Ok(()));
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=a",
            "application/jsonx",
            "text/plain;application/json",
        ] {
            for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "CLEAR"] {
                assert_eq!(asked(method, &[("content-type", kind)]), Err(Refused::NotJson), "{method} {kind}");
            }
        }
        assert_eq!(asked("POST", &[]), Err(Refused::NotJson));
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "http://localhost:9082"),
            ("origin", "http://localhost:3000"),
            ("origin", "null"),
            ("origin", ""),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            for method in ["POST", "DELETE"] {
                assert_eq!(asked(method, &[JSON, (name, value)]), Err(Refused::CrossSite), "{method} {name}: {value}");
            }
        }
    }

    #[test]
    fn beyond_loopback_everything_but_the_probes_needs_the_token() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for reachable in ["0.0.0.0:9081", "10.0.0.5:9081", "[::]:9081", "[::ffff:10.0.0.5]:9081"] {
            let refused = AdminGuard::new(address(reachable), None, &[]).unwrap_err().to_string();
            assert!(refused.contains("ADMIN_TOKEN"), "{refused}");
        }
        for loopback in ["127.0.0.1:9081", "127.9.9.9:9081", "[::1]:9081", "[::ffff:127.0.0.1]:9081"] {
            assert!(AdminGuard::new(address(loopback), None, &[]).is_ok(), "{loopback}");
        }
        let guard = AdminGuard::new(address("0.0.0.0:9081"), Some(&Secret::new("a-token-of-sixteen")), &[]).unwrap();
        let asked = |path, headers: &[(&str, &str)]| judged(&guard, "GET", path, headers);
        for path in ["/metrics", "/health", "/v1/cache", "/nothing", "/health/live/x"] {
            assert_eq!(asked(path, &[]), Err(Refused::TokenMissing), "{path}");
            assert_eq!(asked(path, &[("authorization", "Basic a-token-of-sixteen")]), Err(Refused::TokenMissing));
            assert_eq!(asked(path, &[("authorization", "Bearer a-token-of-sixteeN")]), Err(Refused::TokenWrong));
            assert_eq!(asked(path, &[("authorization", "bearer a-token-of-sixteen")]), Ok(()));
        }
        for probe in PROBES {
            assert_eq!(asked(probe, &[]), Ok(()));
            assert_eq!(asked(probe, &[("host", "evil.example")]), Err(Refused::UnknownHost));
        }
    }
}
