//! The credentials that a request shows, wherever they stand. Pure; whether they are worth anything is decided elsewhere.
//!
//! ```text
//! X-API-Key: KEY                     a key
//! Authorization: Bearer KEY|TOKEN    a key, or a token: three parts with dots between
//! Authorization: Basic KEY:anything  a key as the user name; the password is ignored, since some clients insist on one
//! ?key=KEY                           a browser's key; another one is refused there
//! {"key": KEY, …}                    the same, in the body of a beacon (see [`in_body`])
//! ```
//!
//! The same credential in two places is one, in the less secret of the two. Two that differ are refused, whoever they belong to: a proxy that adds its own must not decide for
//! whom a request is answered. What is too long or no text is refused before anything is computed from it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::denied::Denied;

/// The parameter of a query string, and the field of a body.
pub const KEY: &str = "key";

/// Ours have 50 characters.
pub const MAX_KEY_BYTES: usize = 256;

/// Providers' tokens have 1 to 3 KB.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Selects a project among those that a token names.
pub const PROJECT: HeaderName = HeaderName::from_static("x-tallyhouse-project");

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Where credentials stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Header,
    /// The query string, which logs and histories keep.
    Query,
    Body,
}

/// Credentials and their place.
#[derive(Clone, PartialEq, Eq)]
pub struct Presented<'a> {
    text: Cow<'a, str>,
    /// It came as `Bearer`, which tokens are sent as.
    is_bearer: bool,
    pub place: Place,
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").field("place", &self.place).finish_non_exhaustive()
    }
}

impl<'a> Presented<'a> {
    /// What the head of a request shows, if anything.
    pub fn in_head(headers: &'a HeaderMap, query: Option<&'a str>) -> Result<Option<Self>, Denied> {
        let all = [in_x_api_key(headers)?, in_authorization(headers)?, query.map_or(Ok(None), in_query)?];
        let mut shown = all.into_iter().flatten();
        let Some(mut first) = shown.next() else { return Ok(None) };
        for other in shown {
            if other.text != first.text {
                return Err(Denied::Ambiguous);
            }
            // The query string is last, and what stands there is known to logs, wherever else it stands.
            first.place = other.place;
        }
        Ok(Some(first))
    }

    /// The token, if it has the form of one and came as one.
    pub fn token(&self) -> Option<&str> {
        let is_token = self.is_bearer && self.text.bytes().filter(|byte| *byte == b'.').count() == 2;
        is_token.then_some(self.text.as_ref())
    }

    /// The text as a key.
    pub fn key(&self) -> Result<&str, Denied> {
        if self.text.len() <= MAX_KEY_BYTES { Ok(&self.text) } else { Err(Denied::Malformed("a key is shorter")) }
    }
}

/// The one value of a header.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, Denied> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(Denied::Malformed("a header is there several times")) } else { Ok(first) }
}

fn text(value: &HeaderValue) -> Result<&str, Denied> {
    value.to_str().map(str::trim).map_err(|_| Denied::Malformed("they have other characters than ASCII"))
}

fn in_x_api_key(headers: &HeaderMap) -> Result<Option<Presented<'_>>, Denied> {
    let Some(value) = only(headers, X_API_KEY)? else { return Ok(None) };
    Ok(shown(text(value)?.into(), false, Place::Header))
}

fn in_authorization(headers: &HeaderMap) -> Result<Option<Presented<'_>>, Denied> {
    let Some(value) = only(headers, header::AUTHORIZATION)? else { return Ok(None) };
    let (scheme, rest) = text(value)?.split_once(' ').ok_or(Denied::UnknownScheme)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(shown(rest.trim().into(), true, Place::Header));
    }
    if scheme.eq_ignore_ascii_case("basic") {
        return Ok(shown(user_name(rest.trim())?.into(), false, Place::Header));
    }
    Err(Denied::UnknownScheme)
}

/// The part of `Basic` before the colon.
fn user_name(encoded: &str) -> Result<String, Denied> {
    const PROBLEM: Denied = Denied::Malformed("`Basic` is followed by `user:password` in base64");
    if encoded.len() > MAX_TOKEN_BYTES {
        return Err(Denied::Malformed("credentials are shorter"));
    }
    let decoded = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(PROBLEM)?;
    let (user, _) = decoded.split_once(':').ok_or(PROBLEM)?;
    if user.is_ascii() { Ok(user.to_owned()) } else { Err(PROBLEM) }
}

fn in_query(query: &str) -> Result<Option<Presented<'_>>, Denied> {
    let mut keys = query.split('&').filter_map(key_of);
    let first = keys.next();
    if keys.next().is_some() {
        return Err(Denied::Malformed("`key` is in the query string several times"));
    }
    Ok(first.and_then(|key| shown(key, false, Place::Query)))
}

/// The value of a parameter, if it is the key.
fn key_of(parameter: &str) -> Option<Cow<'_, str>> {
    // Most parameters are another one, and plain.
    if !parameter.starts_with(['k', 'K', '%']) {
        return None;
    }
    form_urlencoded::parse(parameter.as_bytes()).next().filter(|(name, _)| name == KEY).map(|(_, value)| value)
}

fn shown(text: Cow<'_, str>, is_bearer: bool, place: Place) -> Option<Presented<'_>> {
    // Nothing is shown by an empty header, which proxies leave.
    (!text.is_empty()).then_some(Presented { text, is_bearer, place })
}

/// The query string without the key, which nothing further on has to see: not handlers, not their logs and errors.
pub fn query_without_key(query: &str) -> String {
    let rest: Vec<&str> = query.split('&').filter(|parameter| key_of(parameter).is_none()).collect();
    rest.join("&")
}

/// The key at the top level of a JSON object, and the object without it; numbers and texts in it stay as they were written.
pub fn in_body(body: &[u8]) -> Option<(Presented<'static>, Vec<u8>)> {
    let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).ok()?;
    let key: String = serde_json::from_str(fields.remove(KEY)?.get()).ok()?;
    let rest = serde_json::to_vec(&fields).ok()?;
    Some((shown(key.into(), false, Place::Body)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Shown = (&'static [(&'static str, &'static str)], Option<&'static str>);

    fn head(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn key(pairs: &[(&str, &str)], query: Option<&str>) -> Result<Option<(String, Place)>, Denied> {
        let headers = head(pairs);
        let shown = Presented::in_head(&headers, query)?;
        shown.map(|shown| Ok((shown.key()?.to_owned(), shown.place))).transpose()
    }

    fn basic(user: &str) -> String {
        format!("Basic {}", STANDARD.encode(user))
    }

    #[test]
    fn a_key_is_found_in_each_place() {
        let of = |place| Ok(Some(("k".to_owned(), place)));
        assert_eq!(key(&[("x-api-key", "k")], None), of(Place::Header));
        assert_eq!(key(&[("authorization", "bearer  k ")], None), of(Place::Header));
        for credentials in ["k:", "k:x", "k:a:b"] {
            assert_eq!(key(&[("authorization", &basic(credentials))], None), of(Place::Header), "{credentials}");
        }
        for query in ["key=k", "a=1&key=k", "k%65y=%6B&keys=1", "key=k&wait=stored"] {
            assert_eq!(key(&[], Some(query)), of(Place::Query), "{query}");
        }
        assert_eq!(key(&[("x-api-key", "k"), ("authorization", "Bearer k")], Some("key=k")), of(Place::Query));
        for query in ["", "Key=k", "keys=k", "a=key=k", "key", "key="] {
            assert_eq!(key(&[], Some(query)), Ok(None), "{query}");
        }
        assert_eq!(key(&[("x-api-key", "")], None), Ok(None));
    }

    #[test]
    fn two_that_differ_are_refused_and_so_is_what_is_no_text() {
        let ambiguous: [Shown; 4] = [
            (&[("x-api-key", "a"), ("authorization", "Bearer b")], None),
            (&[("x-api-key", "a")], Some("key=b")),
            (&[("authorization", "Bearer a")], Some("key=b")),
            (&[("x-api-key", "a"), ("authorization", "Basic YTp4")], Some("key=A")),
        ];
        for (headers, query) in ambiguous {
            assert_eq!(key(headers, query), Err(Denied::Ambiguous), "{headers:?} {query:?}");
        }
        let malformed: [Shown; 6] = [
            (&[("x-api-key", "a"), ("x-api-key", "a")], None),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer a")], None),
            (&[("x-api-key", "schlüssel")], None),
            (&[("authorization", "Bearer \u{202e}k")], None),
            (&[("authorization", "Basic a2V5")], None),
            (&[], Some("key=a&key=a")),
        ];
        for (headers, query) in malformed {
            assert!(matches!(key(headers, query), Err(Denied::Malformed(_))), "{headers:?} {query:?}");
        }
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        for header in [long.as_str(), "Basic !", &basic("schlüssel:"), &basic(&format!("{long}:"))] {
            let name = if header == long { "x-api-key" } else { "authorization" };
            assert!(matches!(key(&[(name, header)], None), Err(Denied::Malformed(_))), "{header}");
        }
        for other in ["Digest username=k", "Bearer", "k", "Token k"] {
            assert_eq!(key(&[("authorization", other)], None), Err(Denied::UnknownScheme), "{other}");
        }
    }

    #[test]
    fn a_token_has_three_parts_and_comes_as_bearer() {
        let is_token = |name: &str, value: &str| {
            let headers = head(&[(name, value)]);
            Presented::in_head(&headers, None).unwrap().is_some_and(|shown| shown.token().is_some())
        };
        assert!(is_token("authorization", "Bearer a.b.c"));
        for (name, value) in [
            ("x-api-key", "a.b.c"),
            ("authorization", "Bearer a.b"),
            ("authorization", "Bearer a.b.c.d.e"),
            ("authorization", &basic("a.b.c:")),
        ] {
            assert!(!is_token(name, value), "{name}: {value}");
        }
    }

    #[test]
    fn credentials_are_not_printed() {
        let headers = head(&[("x-api-key", "hunter2")]);
        let shown = Presented::in_head(&headers, None).unwrap();
        assert!(!format!("{shown:?}").contains("hunter2"));
    }

    #[test]
    fn the_key_is_taken_out_of_a_url_and_a_body() {
        for (query, rest) in [
            ("key=k", ""),
            ("wait=stored&key=k", "wait=stored"),
            ("k%65y=k&a=%26key=1", "a=%26key=1"),
            ("keyed=1", "keyed=1"),
        ] {
            assert_eq!(query_without_key(query), rest, "{query}");
        }
        let (shown, rest) = in_body(br#"{"eventType":"a","n":1e400,"k\u0065y":"k","b":{"key":2}}"#).unwrap();
        assert_eq!((shown.key(), shown.place), (Ok("k"), Place::Body));
        assert_eq!(rest, br#"{"b":{"key":2},"eventType":"a","n":1e400}"#);
        for none in [r#"{"a":1}"#, r#"{"key":1}"#, r#"{"key":""}"#, r#"[{"key":"k"}]"#, r#"{"key":"k"} x"#, "", "key"] {
            assert!(in_body(none.as_bytes()).is_none(), "{none}");
        }
    }
}
