//! An identity provider on loopback: it publishes its keys, and signs tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "tallyhouse";

/// It answers as long as it is held, and knows two keys: `rsa` and `ec`.
pub struct IdentityProvider {
    url: String,
    keys: [(&'static str, Algorithm, EncodingKey); 2],
    asked: Arc<AtomicUsize>,
}

impl IdentityProvider {
    pub async fn start() -> Self {
        let of = |id, algorithm, kind| {
            let pem = KeyPair::generate_for(kind).unwrap().serialize_pem();
            let key = match algorithm {
                Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
                _ => EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
            };
            (id, algorithm, key)
        };
        let keys = [of("rsa", Algorithm::RS256, &PKCS_RSA_SHA256), of("ec", Algorithm::ES256, &PKCS_ECDSA_P256_SHA256)];
        let published = keys.iter().map(|(id, algorithm, key)| {
            let mut published = serde_json::to_value(Jwk::from_encoding_key(key, *algorithm).unwrap()).unwrap();
            published["kid"] = (*id).into();
            published
        });
        let body = json!({ "keys": Value::from_iter(published) }).to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
                tokio::spawn(async move {
                    let read = stream.read(&mut [0; 4_096]).await;
                    let written = stream.write_all(answer.as_bytes()).await;
                    drop((read, written));
                });
            }
        });
        Self { url, keys, asked }
    }

    /// What a service is started with to take its tokens.
    pub fn variables(&self) -> [(&'static str, &str); 3] {
        [("JWKS_URL", &self.url), ("JWT_ISSUER", ISSUER), ("JWT_AUDIENCE", AUDIENCE)]
    }

    /// How often its keys were fetched.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A token of somebody who signed in with a second factor, with these roles by project.
    pub fn token(&self, roles: &Value) -> String {
        self.sign(&json!({"amr": ["pwd", "mfa"], "tallyhouse": {"projects": roles}}))
    }

    /// A token with these claims beside those that each has. One with `kid` `rsa` is signed as RS256.
    pub fn sign(&self, claims: &Value) -> String {
        let mut all = json!({"sub": "u-7", "iss": ISSUER, "aud": AUDIENCE, "exp": get_current_timestamp() + 600});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let [_, (id, algorithm, key)] = &self.keys;
        encode(&Header { kid: Some((*id).to_owned()), ..Header::new(*algorithm) }, &all, key).unwrap()
    }
}
