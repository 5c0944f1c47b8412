//! Why a request is not let in, and what its sender can do about it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::rights::{Right, Role, Scope};
use crate::http::Problem;

/// How long to wait for an identity provider that is away, in seconds; and for the first keys.
const PROVIDER_RETRY_S: u32 = 5;
const KEYS_RETRY_S: u32 = 2;

/// A request that is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No credentials.
    #[error(
        "send a key in `X-API-Key`, `Authorization: Bearer`, or as the user name of `Authorization: Basic`, or a token as `Bearer`"
    )]
    NoCredentials,
    /// `Authorization` has another scheme.
    #[error("`Authorization` is taken with `Bearer` (a key or a token) or `Basic` (a key as the user name)")]
    UnknownScheme,
    /// Nothing that a key or a token can be.
    #[error("the credentials cannot be read: {0}")]
    Malformed(&'static str),
    /// Two that differ.
    #[error("the request has several different credentials; send one")]
    Ambiguous,
    /// Nobody has that key.
    #[error("this key is not known")]
    UnknownKey,
    /// Ours have a check at the end.
    #[error("this key is mistyped or cut: its check does not match")]
    BrokenKey,
    /// Its time is over.
    #[error(
        "this key has expired, or was rotated and its overlap is over; create another one with `tallyhouse keys create`"
    )]
    ExpiredKey,
    /// It was taken back.
    #[error("this key was revoked")]
    RevokedKey,
    /// It may be one: none have been read yet.
    #[error("the keys are not known yet, because ClickHouse has not answered; try again after `Retry-After`")]
    KeysNotLoaded,
    /// A key that must be secret, where others read it.
    #[error(
        "this key may not stand in a URL or a body, where logs keep it: send it in `X-API-Key`, and rotate it, since it has been seen"
    )]
    KeyInWrongPlace,
    /// A page that may not use the key.
    #[error("this key may not be used by pages of this origin; add the origin to the key")]
    OriginNotAllowed,
    /// Neither signed by whom we trust, nor for us.
    #[error("the token is not accepted: {0}")]
    InvalidToken(&'static str),
    /// It was valid.
    #[error("the token has expired; sign in again")]
    ExpiredToken,
    /// Nothing is known yet of whom the tokens are from.
    #[error(
        "tokens cannot be checked now: the keys of the identity provider could not be fetched; try again after `Retry-After`"
    )]
    ProviderAway,
    /// The token names no project, or none in which its bearer has a role.
    #[error("the token gives no role in any project")]
    NoProject,
    /// The token names several.
    #[error("the token names several projects; say which one in `X-Tallyhouse-Project`")]
    ProjectNeeded,
    /// `X-Tallyhouse-Project` names one that the credentials do not name.
    #[error("these credentials are not for the project in `X-Tallyhouse-Project`")]
    WrongProject,
    #[error("{}", missing(*.0))]
    MissingRight(Right),
    /// The role has it, but the sign-in was too weak.
    #[error(
        "the role `admin` has the right `{}` only with a second factor: sign in with one, so that `amr` of the token contains `mfa`", .0.name()
    )]
    SecondFactorNeeded(Right),
    /// A route that nobody gave a rule.
    #[error("nobody may use this path")]
    NoRule,
    /// The path has other methods.
    #[error("this path does not take this method; see `Allow`")]
    WrongMethod {
        /// `GET, POST`
        allow: String,
    },
    /// A body in which the key would be.
    #[error("a body with the key in it did not arrive in time, or was cut off")]
    NoBody,
    #[error("a body with the key in it may have {limit} bytes; send the key in a header")]
    BodyTooLarge { limit: usize },
    /// Too many bodies are read at once, of senders that are not known yet.
    #[error("too many requests with the key in their body are being read; send it again after `Retry-After`")]
    Busy,
}

impl Denied {
    /// For programs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCredentials => "missing_key",
            Self::UnknownScheme => "unknown_scheme",
            Self::Malformed(_) => "bad_credentials",
            Self::Ambiguous => "ambiguous_credentials",
            Self::UnknownKey | Self::BrokenKey => "unknown_key",
            Self::ExpiredKey => "expired_key",
            Self::RevokedKey => "revoked_key",
            Self::KeysNotLoaded => "keys_not_loaded",
            Self::KeyInWrongPlace => "key_in_wrong_place",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::InvalidToken(_) => "invalid_token",
            Self::ExpiredToken => "expired_token",
            Self::ProviderAway => "identity_provider_away",
            Self::NoProject => "no_project",
            Self::ProjectNeeded => "project_needed",
            Self::WrongProject => "wrong_project",
            Self::MissingRight(_) => "missing_right",
            Self::SecondFactorNeeded(_) => "second_factor_needed",
            Self::NoRule => "no_rule",
            Self::WrongMethod { .. } => "method_not_allowed",
            Self::NoBody => "body_timeout",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::Busy => "overloaded",
        }
    }

    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Ambiguous | Self::ProjectNeeded => StatusCode::BAD_REQUEST,
            Self::NoCredentials
            | Self::UnknownScheme
            | Self::UnknownKey
            | Self::BrokenKey
            | Self::ExpiredKey
            | Self::RevokedKey
            | Self::InvalidToken(_)
            | Self::ExpiredToken => StatusCode::UNAUTHORIZED,
            Self::KeyInWrongPlace
            | Self::OriginNotAllowed
            | Self::NoProject
            | Self::WrongProject
            | Self::MissingRight(_)
            | Self::SecondFactorNeeded(_)
            | Self::NoRule => StatusCode::FORBIDDEN,
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoBody => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::KeysNotLoaded | Self::ProviderAway | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What a 401 asks for. Never `Basic`: browsers would ask their user for a password.
    const fn challenge(&self) -> &'static str {
        match self {
            Self::NoCredentials | Self::UnknownScheme => "Bearer realm=\"tallyhouse\"",
            _ => "Bearer realm=\"tallyhouse\", error=\"invalid_token\"",
        }
    }
}

/// Who has the right that is missing.
fn missing(right: Right) -> String {
    let scopes = Scope::ALL.iter().filter(|scope| scope.rights().has(right)).map(|scope| scope.name());
    let roles = Role::ALL.iter().filter(|role| role.rights().has(right)).map(|role| role.name());
    let name = right.name();
    match (any_of(scopes), any_of(roles)) {
        (None, None) => format!("this needs the right `{name}`, which only operators have"),
        (Some(scopes), None) => format!("this needs the right `{name}`: a key with the scope {scopes}"),
        (None, Some(roles)) => format!("this needs the right `{name}`: the role {roles}"),
        (Some(scopes), Some(roles)) => {
            format!("this needs the right `{name}`: a key with the scope {scopes}, or the role {roles}")
        }
    }
}

fn any_of(names: impl Iterator<Item = &'static str>) -> Option<String> {
    let quoted: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    (!quoted.is_empty()).then(|| quoted.join(" or "))
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let mut problem = Self::new(denied.status(), denied.code(), denied.to_string());
        problem.retry_after = match denied {
            Denied::ProviderAway => Some(PROVIDER_RETRY_S),
            Denied::KeysNotLoaded => Some(KEYS_RETRY_S),
            Denied::Busy => Some(1),
            _ => None,
        };
        match denied {
            Denied::MissingRight(right) | Denied::SecondFactorNeeded(right) => problem.with("right", right.name()),
            Denied::BodyTooLarge { limit } => problem.with("limit_bytes", limit),
            _ => problem,
        }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let is_unauthorized = self.status() == StatusCode::UNAUTHORIZED;
        let challenge = is_unauthorized.then(|| HeaderValue::from_static(self.challenge()));
        let allow = match &self {
            Self::WrongMethod { allow } => HeaderValue::from_str(allow).ok(),
            _ => None,
        };
        let mut response = Problem::from(self).into_response();
        let headers = response.headers_mut();
        headers.extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
        headers.extend(allow.map(|allow| (header::ALLOW, allow)));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_who_has_it() {
        let problem = Problem::from(Denied::MissingRight(Right::Sql));
        assert_eq!((problem.status.as_u16(), problem.code), (403, "missing_right"));
        assert_eq!(problem.details["right"], "sql");
        assert_eq!(
            problem.message,
            "this needs the right `sql`: a key with the scope `sql`, or the role `analyst` or `admin`"
        );
        let operators = Problem::from(Denied::MissingRight(Right::ManageInstallation));
        assert!(operators.message.ends_with("which only operators have"), "{}", operators.message);
    }

    #[test]
    fn a_401_says_what_to_send() {
        let header = |denied: Denied| denied.into_response().headers()[header::WWW_AUTHENTICATE].clone();
        assert_eq!(header(Denied::NoCredentials), "Bearer realm=\"tallyhouse\"");
        assert_eq!(header(Denied::ExpiredToken), "Bearer realm=\"tallyhouse\", error=\"invalid_token\"");
        assert!(!Denied::NoRule.into_response().headers().contains_key(header::WWW_AUTHENTICATE));
        let wrong = Denied::WrongMethod { allow: "GET, POST".to_owned() }.into_response();
        assert_eq!((wrong.status().as_u16(), &wrong.headers()[header::ALLOW]), (405, &"GET, POST".parse().unwrap()));
    }
}
