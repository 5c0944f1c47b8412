//! API keys. Of a key's text only SHA-256 is kept.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tallyhouse_service::access::Scope;

use super::Document;
use crate::key_text::KeyDigest;
use crate::kind::Kind;

/// A key. Its name is its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyDocument {
    /// None: an operator's, who creates projects and keys and sees no event.
    pub scopes: Vec<Scope>,
    /// Web pages that may send with it; only of a browser's key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// What opens: the newest first. There are several while a rotated key is still good under its old text.
    pub secrets: Vec<KeySecret>,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// From then on it opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// Since when it opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<i64>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// One text of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeySecret {
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub sha256: KeyDigest,
    /// From then on it opens nothing: another text has taken its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

impl Document for KeyDocument {
    const KIND: Kind = Kind::Key;
}

fn to_hex<S: Serializer>(digest: &KeyDigest, serializer: S) -> Result<S::Ok, S::Error> {
    let text = digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ok = write!(text, "{byte:02x}");
        text
    });
    serializer.serialize_str(&text)
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyDigest, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = || de::Error::custom("a digest is 64 hexadecimal digits");
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut digest = KeyDigest::default();
    for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(digest)
}
