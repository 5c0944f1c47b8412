//! The keys that a provider publishes (RFC 7517). Pure.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::Checks;

/// Providers have two to ten.
const MAX_KEYS: usize = 64;

/// Of an RSA key: below it can be broken, and above it costs too much for what anybody may ask to be verified.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// A key, and what tokens signed with it have to hold.
pub(super) struct Verifier {
    pub(super) key: DecodingKey,
    /// Its algorithm is the key's.
    pub(super) validation: Validation,
}

/// All usable keys of a provider.
pub(super) struct KeySet {
    by_id: HashMap<String, Arc<Verifier>>,
    /// Without an id.
    nameless: Vec<Arc<Verifier>>,
}

/// Something else than a set of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadKeySet {
    #[error("it is not a JSON object with a list `keys`")]
    NotASet,
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("it has no key for RS256 or ES256")]
    NothingUsable,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// Of one key what is looked at.
#[derive(Deserialize)]
struct Published {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Keys for something else, and of kinds that are not known, are left out.
    pub(super) fn parse(body: &[u8], checks: &Checks) -> Result<Self, BadKeySet> {
        let Document { keys } = serde_json::from_slice(body).map_err(|_| BadKeySet::NotASet)?;
        if keys.len() > MAX_KEYS {
            return Err(BadKeySet::TooMany);
        }
        let mut set = Self { by_id: HashMap::new(), nameless: Vec::new() };
        for published in keys.into_iter().filter_map(|key| Published::deserialize(key).ok()) {
            let Some((key, algorithm)) = published.verifying() else { continue };
            let verifier = Arc::new(Verifier { key, validation: checks.validation(algorithm) });
            match published.kid {
                Some(id) => drop(set.by_id.entry(id).or_insert(verifier)),
                None => set.nameless.push(verifier),
            }
        }
        if set.len() == 0 { Err(BadKeySet::NothingUsable) } else { Ok(set) }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len() + self.nameless.len()
    }

    /// The key of that id; of a token that names none, the only key that there is.
    pub(super) fn find(&self, id: Option<&str>) -> Option<&Arc<Verifier>> {
        match id {
            Some(id) => self.by_id.get(id),
            None if self.len() == 1 => self.by_id.values().chain(&self.nameless).next(),
            None => None,
        }
    }
}

impl Published {
    /// The key and the one algorithm that it verifies.
    fn verifying(&self) -> Option<(DecodingKey, Algorithm)> {
        let is_for_signatures = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        let verifies = self.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|what| what == "verify"));
        if !is_for_signatures || !verifies {
            return None;
        }
        let says = |algorithm: &str| self.alg.as_deref().is_none_or(|alg| alg == algorithm);
        match self.kty.as_str() {
            "RSA" if says("RS256") => Some((self.rsa()?, Algorithm::RS256)),
            "EC" if says("ES256") && self.crv.as_deref() == Some("P-256") => Some((self.p256()?, Algorithm::ES256)),
            // A symmetric key is a secret, and what is published is none.
            _ => None,
        }
    }

    fn rsa(&self) -> Option<DecodingKey> {
        let key = DecodingKey::from_rsa_components(self.n.as_deref()?, self.e.as_deref()?).ok()?;
        let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else { return None };
        let modulus = n.iter().skip_while(|byte| **byte == 0).count();
        (MODULUS_BYTES.contains(&modulus) && e.len() <= 4).then_some(key)
    }

    fn p256(&self) -> Option<DecodingKey> {
        let key = DecodingKey::from_ec_components(self.x.as_deref()?, self.y.as_deref()?).ok()?;
        // An uncompressed point: its kind, and two numbers of 32 bytes.
        (key.try_get_as_bytes().ok()?.len() == 65).then_some(key)
    }
}
