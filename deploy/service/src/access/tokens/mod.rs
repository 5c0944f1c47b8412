//! JSON Web Tokens of an identity provider.
//!
//! ```text
//! token -> header: kid -> the provider's key (`provider`, `key_set`) -> signature, exp, nbf, iss, aud -> claims -> SignedIn
//!            |                   | unknown: one fetch, at most each 5 s
//!            '-> no JSON, no kid, larger than 8 KiB: refused before any of it
//! ```
//!
//! Which algorithm verifies is said by the key, never by the token: a token that says another one is refused, so neither `none` nor a public key
//! taken for a secret of HMAC verifies anything. Keys are taken from the configured URL alone, never from what a token names (`jku`, `x5u`, `jwk`).
//!
//! Failure cases:
//! * the provider is away, hangs, or answers anything but a set of keys: the last set stays, and tokens of its keys are accepted. Tokens of other
//!   keys, and all of them before the first set, are answered 503;
//! * tokens with invented keys arrive by the thousand: one fetch each 5 s, in which nobody else has to wait;
//! * a key is taken back by the provider: unknown here at the next fetch, which is each 10 minutes while tokens come.

pub mod claims;
mod fetch;
mod key_set;
mod provider;

use std::sync::Arc;

use axum::http::Uri;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

pub use self::claims::SignedIn;
use self::fetch::Fetch;
use self::key_set::Verifier;
use self::provider::{PACE, Pace, Provider};
use super::denied::Denied;
use super::presented::MAX_TOKEN_BYTES;
use super::telemetry::AccessMetrics;
use crate::http_client::HttpError;
use crate::secret::Secret;

/// How far the clocks of a provider and of ours may be apart, in seconds.
const CLOCK_SKEW_S: u32 = 60;

/// Ids of keys are hashes.
const MAX_KEY_ID_BYTES: usize = 256;

/// Whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    pub signer: Signer,
    /// `iss`. Not looked at when there is none, which only development may have.
    pub issuer: Option<String>,
    /// `aud`, likewise.
    pub audience: Option<String>,
    /// The claim that holds projects and roles.
    pub claim: String,
}

/// Who signs tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// A provider that publishes its keys there, RS256 and ES256.
    Provider(Uri),
    /// Whoever has this secret, HS256: for development.
    Secret(Secret),
}

/// Tokens cannot be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum TokenSetupError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the secret cannot be used")]
    Secret,
}

/// Verifies tokens. Clones share what is known of the provider.
#[derive(Clone)]
pub struct Tokens {
    keys: Keys,
    claim: Arc<str>,
}

#[derive(Clone)]
enum Keys {
    Provider(Arc<Provider>),
    Secret(Arc<Verifier>),
}

impl Tokens {
    /// Nothing is fetched yet.
    pub fn new(settings: TokenSettings, metrics: AccessMetrics) -> Result<Self, TokenSetupError> {
        Self::paced(settings, PACE, metrics)
    }

    fn paced(settings: TokenSettings, pace: Pace, metrics: AccessMetrics) -> Result<Self, TokenSetupError> {
        let checks = Checks { issuer: settings.issuer, audience: settings.audience };
        let keys = match settings.signer {
            Signer::Provider(uri) => {
                let fetch = Fetch::new(&uri, pace.within)?;
                Keys::Provider(Arc::new(Provider::new(fetch, pace, checks, metrics)))
            }
            Signer::Secret(secret) => {
                let key = DecodingKey::from_secret(secret.expose().as_bytes());
                let key = key.map_err(|_| TokenSetupError::Secret)?;
                Keys::Secret(Arc::new(Verifier { key, validation: checks.validation(Algorithm::HS256) }))
            }
        };
        Ok(Self { keys, claim: settings.claim.into() })
    }

    /// Who signed in, and what the provider says about them.
    pub async fn verify(&self, token: &str) -> Result<SignedIn, Denied> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Denied::InvalidToken("it is too large"));
        }
        let header = decode_header(token).map_err(|error| of_error(error.kind()))?;
        if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID_BYTES) {
            return Err(Denied::InvalidToken("the id of its key is too long"));
        }
        let verifier = match &self.keys {
            Keys::Secret(verifier) => Arc::clone(verifier),
            Keys::Provider(provider) => provider.key(header.kid.as_deref()).await?,
        };
        let decoded = decode::<Map<String, Value>>(token, &verifier.key, &verifier.validation);
        let claims = decoded.map_err(|error| of_error(error.kind()))?.claims;
        SignedIn::of(&claims, &self.claim)
    }
}

/// What has to be in a token beside a signature.
#[derive(Debug, Clone)]
pub(super) struct Checks {
    issuer: Option<String>,
    audience: Option<String>,
}

impl Checks {
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = CLOCK_SKEW_S.into();
        validation.validate_nbf = true;
        validation.validate_aud = self.audience.is_some();
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

/// The reason in our words: those of the library may hold parts of the token.
const fn of_error(error: &ErrorKind) -> Denied {
    Denied::InvalidToken(match error {
        ErrorKind::ExpiredSignature => return Denied::ExpiredToken,
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidIssuer => "it is of another issuer",
        ErrorKind::InvalidAudience => "it is for another audience",
        ErrorKind::MissingRequiredClaim(_) => "`exp`, `sub`, `iss` and `aud` have to be in it",
        ErrorKind::InvalidClaimFormat(_) => {
            "one of `exp`, `nbf`, `sub`, `iss` and `aud` has another type than it must have"
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            "it says another algorithm than its key has"
        }
        ErrorKind::InvalidSignature => "its signature is wrong",
        _ => "it cannot be read",
    })
}

#[cfg(test)]
mod tests;
