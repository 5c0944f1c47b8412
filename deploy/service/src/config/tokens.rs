//! Tokens of an identity provider.

use axum::http::Uri;
use clap::Args;

use super::{is_development, untrimmed_secret};
use crate::access::tokens::{Signer, TokenSettings};
use crate::env::{self, ConfigError, Env};
use crate::secret::Secret;

/// Whose tokens people sign in with.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tokens")]
pub struct TokenVariables {
    /// Where the identity provider publishes the keys of its tokens (JWKS, of RS256 and ES256), such as `https://id.example/keys`; without it no
    /// tokens are taken
    #[arg(long, env = "JWKS_URL", value_parser = jwks_url)]
    pub jwks_url: Option<Uri>,
    /// Who issues the tokens: `iss` in them; needed with `JWKS_URL`
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// For whom the tokens are: `aud` in them; needed with `JWKS_URL`
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// The claim that holds projects and roles
    #[arg(long, env = "JWT_CLAIM", default_value = "tallyhouse")]
    pub jwt_claim: String,
    /// In development, instead of `JWKS_URL`: the secret that tokens are signed with (HS256), at least 32 bytes
    #[arg(env = "JWT_SECRET", value_parser = untrimmed_secret)]
    pub jwt_secret: Option<Secret>,
}

/// Of HS256: as long as its hash.
const LEAST_SECRET_BYTES: usize = 32;

/// A provider's address. Whoever answers there decides who is let in, so it is asked over TLS, unless it is on this machine.
fn jwks_url(text: &str) -> Result<Uri, String> {
    let wrong = || "must be the address of a provider's keys, such as https://id.example/keys".to_owned();
    let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
    let host = uri.host().ok_or_else(wrong)?;
    let is_here = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        _ if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
            Err("names a user, which providers do not ask for".to_owned())
        }
        Some("https") => Ok(uri),
        Some("http") if is_here => Ok(uri),
        Some("http") => Err("must begin with https:// unless it is on this machine".to_owned()),
        _ => Err(wrong()),
    }
}

/// Whose tokens are taken, if anybody's.
pub fn tokens(env: &dyn Env) -> Result<Option<TokenSettings>, ConfigError> {
    let variables: TokenVariables = env::read(env)?;
    let signer = match (variables.jwks_url, variables.jwt_secret) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(ConfigError::new("JWT_SECRET", "is set beside JWKS_URL: set one of them"));
        }
        (None, Some(_)) if !is_development(env)? => {
            return Err(ConfigError::new("JWT_SECRET", "is for development only (TALLYHOUSE_DEV=1): set JWKS_URL"));
        }
        (None, Some(secret)) if secret.expose().len() < LEAST_SECRET_BYTES => {
            let problem = format!("has fewer than {LEAST_SECRET_BYTES} bytes");
            return Err(ConfigError::new("JWT_SECRET", problem));
        }
        (None, Some(secret)) => Signer::Secret(secret),
        (Some(uri), None) => {
            let needed = [("JWT_ISSUER", &variables.jwt_issuer), ("JWT_AUDIENCE", &variables.jwt_audience)];
            if let Some((name, _)) = needed.iter().find(|(_, value)| value.is_none()) {
                let problem = "is not set: without it tokens for other services would be accepted";
                return Err(ConfigError::new(*name, problem));
            }
            Signer::Provider(uri)
        }
    };
    let TokenVariables { jwt_issuer: issuer, jwt_audience: audience, jwt_claim: claim, .. } = variables;
    Ok(Some(TokenSettings { signer, issuer, audience, claim }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<TokenSettings>, String> {
        let env: BTreeMap<_, _> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        tokens(&env).map_err(|error| error.to_string())
    }

    #[test]
    fn a_provider_is_asked_over_tls_and_its_tokens_are_for_us() {
        let all =
            [("JWKS_URL", "https://id.example/keys"), ("JWT_ISSUER", "https://id.example"), ("JWT_AUDIENCE", "t")];
        let settings = read(&all).unwrap().unwrap();
        assert_eq!((settings.issuer.as_deref(), settings.claim.as_str()), (Some("https://id.example"), "tallyhouse"));
        assert_eq!(read(&[]), Ok(None));
        assert!(read(&all[..2]).unwrap_err().starts_with("JWT_AUDIENCE: is not set"));
        assert!(read(&all[..1]).unwrap_err().starts_with("JWT_ISSUER: is not set"));
        for here in ["http://127.0.0.1:1/keys", "http://[::1]/keys", "http://localhost"] {
            assert!(read(&[("JWKS_URL", here), all[1], all[2]]).is_ok(), "{here}");
        }
        for wrong in
            ["http://id.example", "http://localhost.evil.example", "ftp://a", "id.example", "https://a:b@c", "/"]
        {
            let error = read(&[("JWKS_URL", wrong), all[1], all[2]]).unwrap_err();
            assert!(error.starts_with("JWKS_URL: "), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_secret_is_for_development() {
        let (secret, short) = ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcde");
        let development = ("TALLYHOUSE_DEV", "1");
        assert!(read(&[("JWT_SECRET", secret), development]).is_ok());
        for (pairs, problem) in [
            (&[("JWT_SECRET", secret)][..], "is for development only"),
            (&[("JWT_SECRET", short), development], "has fewer than 32 bytes"),
            (&[("JWT_SECRET", secret), development, ("JWKS_URL", "https://a")], "is set beside JWKS_URL"),
        ] {
            let error = read(pairs).unwrap_err();
            assert!(error.contains(problem) && !error.contains(short), "{error}");
        }
    }
}
