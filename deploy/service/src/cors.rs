//! Which web pages may ask the public ports (CORS).
//!
//! A page of another origin reads an answer only when the answer names that origin. Never `*`, and never credentials: keys are sent in
//! headers, cookies mean nothing here. Without an origin to allow nothing of this is in the answers, and a preflight is answered 405.
//!
//! A preflight carries no key. It is answered for every origin that some key allows; the answer to the request itself names the
//! origin when the request's own key allows it. `Vary` names what an answer depends on, so that no cache between gives one origin the answer for
//! another.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
pub use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember a preflight: an origin that is taken away is shut out that much later.
const MAX_AGE: Duration = Duration::from_secs(600);

/// What a browser sends to us.
const HEADERS: [HeaderName; 7] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::IF_NONE_MATCH,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-tallyhouse-project"),
    HeaderName::from_static("traceparent"),
];

/// What a page may read beside the body.
pub(crate) const EXPOSED: [HeaderName; 8] = [
    header::RETRY_AFTER,
    header::ETAG,
    HeaderName::from_static("x-cache"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("x-ratelimit-scope"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// One origin, as browsers send it: `https://app.example`, with a port when it is not the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// Origins that are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    /// No page may ask.
    #[default]
    None,
    /// Pages that this machine serves, on any port: for development.
    Loopback,
    Listed(Vec<Origin>),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an origin, such as https://app.example or http://localhost:3000");
        if text == "*" {
            return Err("`*` lets every web page in; name each origin, such as https://app.example".to_owned());
        }
        let (scheme, host) = text.split_once("://").ok_or_else(wrong)?;
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_bare = uri.path() == "/" && !text.ends_with('/') && uri.query().is_none() && !host.contains('@');
        let has_host = uri.host().is_some_and(|host| !host.is_empty() && !host.contains('*'));
        let has_bad_port = uri.authority().is_some_and(|all| all.as_str() != all.host() && all.port_u16().is_none());
        if !["http", "https"].contains(&scheme) || !is_bare || !has_host || has_bad_port {
            return Err(wrong());
        }
        let own_port = if scheme == "https" { ":443" } else { ":80" };
        let origin = text.to_ascii_lowercase();
        Ok(Self(origin.strip_suffix(own_port).map_or(origin.clone(), str::to_owned)))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Origins {
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None) || matches!(self, Self::Listed(listed) if listed.is_empty())
    }

    pub fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        match self {
            Self::None => false,
            Self::Loopback => is_loopback(origin),
            Self::Listed(listed) => listed.iter().any(|allowed| allowed.0 == origin),
        }
    }
}

fn is_loopback(origin: &str) -> bool {
    let Some(uri) = origin.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some()) else { return false };
    match uri.host() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

/// Answers preflights, and names the origin where `allow` does.
pub fn layer(allow: AllowOrigin, methods: Vec<Method>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(allow)
        .allow_methods(methods)
        .allow_headers(HEADERS)
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(origins: &Origins, origin: &str) -> bool {
        origins.allows(&HeaderValue::from_str(origin).unwrap())
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for (text, origin) in [
            ("https://app.example", "https://app.example"),
            ("HTTPS://App.Example:443", "https://app.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
        ] {
            let parsed = text.to_ascii_lowercase().parse::<Origin>();
            assert_eq!(parsed.unwrap().to_string(), origin);
        }
        for text in [
            "*",
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example/a",
            "https://*.example",
            "ftp://a.example",
            "null",
            "https://a@b.example",
            "https://a.example?b",
            "file://",
            "https://a.example,https://b.example",
            "https://a.example:99999",
            "https://a.example:",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_is_listed_is_allowed() {
        let listed = Origins::Listed(vec!["https://app.example".parse().unwrap()]);
        assert!(allows(&listed, "https://app.example"));
        for other in [
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil",
            "https://evil/https://app.example",
            "null",
            "",
        ] {
            assert!(!allows(&listed, other) && !allows(&Origins::None, other), "{other}");
        }
        assert!(Origins::Listed(Vec::new()).is_none() && !listed.is_none());
    }

    #[test]
    fn in_development_pages_of_this_machine_are_allowed() {
        for own in ["http://localhost:3000", "http://127.0.0.1", "https://localhost", "http://[::1]:5173"] {
            assert!(allows(&Origins::Loopback, own), "{own}");
        }
        for other in [
            "https://app.example",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "null",
            "localhost",
            "http://10.0.0.1",
        ] {
            assert!(!allows(&Origins::Loopback, other), "{other}");
        }
    }
}
