//! Tokens of a provider that the test itself is, and forged ones.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const FAST: Pace =
    Pace { refresh: Duration::from_secs(600), pause: Duration::from_millis(300), within: Duration::from_millis(500) };

/// A pair of keys of a provider.
struct Pair {
    id: String,
    algorithm: Algorithm,
    pair: KeyPair,
}

impl Pair {
    fn new(id: &str, algorithm: Algorithm) -> Self {
        let kind = if algorithm == Algorithm::RS256 { &PKCS_RSA_SHA256 } else { &PKCS_ECDSA_P256_SHA256 };
        Self { id: id.to_owned(), algorithm, pair: KeyPair::generate_for(kind).unwrap() }
    }

    fn signing(&self) -> EncodingKey {
        let pem = self.pair.serialize_pem();
        match self.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
        }
    }

    fn published(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.signing(), self.algorithm).unwrap();
        let mut published = serde_json::to_value(jwk).unwrap();
        published["kid"] = self.id.as_str().into();
        published
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) }
    }

    fn sign(&self, claims: &Value) -> String {
        encode(&self.header(), claims, &self.signing()).unwrap()
    }
}

fn claims() -> Value {
    json!({"sub": "u-7", "iss": "https://id.example", "aud": ["other", "tallyhouse"], "exp": get_current_timestamp() + 600,
           "tallyhouse": {"projects": {"shop": "analyst"}}})
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn published(pairs: &[&Pair]) -> String {
    json!({"keys": pairs.iter().map(|pair| pair.published()).collect::<Vec<_>>()}).to_string()
}

/// What the provider answers.
#[derive(Clone)]
enum Answer {
    Keys(String),
    Line(&'static str),
    Hang,
    Endless,
}

/// A provider on loopback.
struct Site {
    tokens: Tokens,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    metrics: AccessMetrics,
}

impl Site {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (given, counted) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = given.lock().unwrap().clone();
                tokio::spawn(async move {
                    let _read = stream.read(&mut [0; 4096]).await;
                    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n";
                    let sent = match answer {
                        Answer::Keys(body) => stream.write_all(format!("{head}\r\n{body}").as_bytes()).await,
                        Answer::Line(line) => stream.write_all(format!("HTTP/1.1 {line}\r\n\r\n").as_bytes()).await,
                        Answer::Hang => std::future::pending().await,
                        Answer::Endless => {
                            stream.write_all(format!("{head}\r\n{{\"keys\":[").as_bytes()).await.unwrap();
                            while stream.write_all(&[b' '; 65_536]).await.is_ok() {}
                            Ok(())
                        }
                    };
                    drop(sent);
                });
            }
        });
        let metrics = AccessMetrics::unregistered().unwrap();
        let settings = TokenSettings { signer: Signer::Provider(uri), ..settings() };
        let tokens = Tokens::paced(settings, FAST, metrics.clone()).unwrap();
        Self { tokens, answer, asked, metrics }
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn verify(&self, token: &str) -> Result<String, Denied> {
        let (principal, _) = self.tokens.verify(token).await?.principal(None)?;
        Ok(principal.subject.name().to_owned())
    }

    async fn pause(&self) {
        tokio::time::sleep(FAST.pause).await;
    }
}

fn settings() -> TokenSettings {
    TokenSettings {
        signer: Signer::Secret(Secret::new("a".repeat(32))),
        issuer: Some("https://id.example".to_owned()),
        audience: Some("tallyhouse".to_owned()),
        claim: "tallyhouse".to_owned(),
    }
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

#[tokio::test]
async fn tokens_of_both_algorithms_are_verified_and_others_are_not() {
    let (rsa, ec, other) =
        (Pair::new("rsa", Algorithm::RS256), Pair::new("ec", Algorithm::ES256), Pair::new("rsa", Algorithm::RS256));
    let site = Site::start(Answer::Keys(published(&[&rsa, &ec]))).await;
    for pair in [&rsa, &ec] {
        assert_eq!(site.verify(&pair.sign(&claims())).await, Ok("u-7".to_owned()), "{}", pair.id);
    }
    let now = get_current_timestamp();
    let within_skew = with("exp", now - 50);
    assert_eq!(site.verify(&rsa.sign(&within_skew)).await, Ok("u-7".to_owned()));
    assert_eq!(site.verify(&rsa.sign(&with("exp", now - 70))).await, Err(Denied::ExpiredToken));
    let signature_of_other = other.sign(&claims());
    let secret = EncodingKey::from_secret(&rsa.pair.subject_public_key_info()).unwrap();
    let pem = EncodingKey::from_secret(rsa.pair.public_key_pem().as_bytes()).unwrap();
    let confused = |key: &EncodingKey| {
        encode(&Header { kid: Some("rsa".to_owned()), ..Header::new(Algorithm::HS256) }, &claims(), key).unwrap()
    };
    let none = |alg: &str| format!("{}.{}.", part(&json!({"alg": alg, "kid": "rsa"})), part(&claims()));
    let good = rsa.sign(&claims());
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let swapped = format!("{head}.{}.{signature}", part(&with("sub", "admin")));
    let header = |change: &dyn Fn(&mut Header)| {
        let mut header = rsa.header();
        change(&mut header);
        encode(&header, &claims(), &rsa.signing())
    };
    let own_key = header(&|header| header.jwk = Some(serde_json::from_value(other.published()).unwrap())).unwrap();
    assert_eq!(site.verify(&own_key).await, Ok("u-7".to_owned()), "a key in a token is not looked at");
    let unknown_must = header(&|header| header.crit = Some(vec!["x".to_owned()]));
    for (what, token) in [
        ("signed by another key of that id", signature_of_other),
        ("signed with the public key, DER", confused(&secret)),
        ("signed with the public key, PEM", confused(&pem)),
        ("none", none("none")),
        ("None", none("None")),
        ("no signature", format!("{head}.{body}.")),
        ("other claims", swapped),
        ("the key of the other algorithm", ec_token_as_rsa(&ec)),
        ("extension that must be understood", unknown_must.unwrap_or_default()),
        ("another issuer", rsa.sign(&with("iss", "https://evil.example"))),
        ("no issuer", rsa.sign(&without("iss"))),
        ("another audience", rsa.sign(&with("aud", "other"))),
        ("no audience", rsa.sign(&without("aud"))),
        ("no end", rsa.sign(&without("exp"))),
        ("an end in words", rsa.sign(&with("exp", "never"))),
        ("not begun", rsa.sign(&with("nbf", now + 120))),
        ("nobody", rsa.sign(&without("sub"))),
        ("too large", rsa.sign(&with("x", "x".repeat(8_000)))),
        ("no JSON", "a.b.c".to_owned()),
        ("empty", "..".to_owned()),
        ("text for a number", format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode("[[[["))),
    ] {
        let answer = site.verify(&token).await;
        assert!(matches!(answer, Err(Denied::InvalidToken(_))), "{what}: {answer:?}");
    }
    assert_eq!(site.asked(), 1);
}

/// Signed by the one, and says it is of the other.
fn ec_token_as_rsa(ec: &Pair) -> String {
    encode(&Header { kid: Some("rsa".to_owned()), ..ec.header() }, &claims(), &ec.signing()).unwrap()
}

#[tokio::test]
async fn a_new_key_is_fetched_once_and_invented_ones_are_not() {
    let (old, new) = (Pair::new("old", Algorithm::ES256), Pair::new("new", Algorithm::ES256));
    let site = Site::start(Answer::Keys(published(&[&old]))).await;
    let (of_old, of_new) = (old.sign(&claims()), new.sign(&claims()));
    let all = futures_util::future::join_all((0..50).map(|_| site.verify(&of_old))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!((site.asked(), site.metrics.fetches()), (1, 1));
    site.answers(Answer::Keys(published(&[&old, &new])));
    assert!(matches!(site.verify(&of_new).await, Err(Denied::InvalidToken(_))), "it was asked just now");
    site.pause().await;
    let all = futures_util::future::join_all((0..50).map(|_| site.verify(&of_new))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(site.asked(), 2);
    for invented in 0..2_000 {
        let head = json!({"alg": "ES256", "kid": format!("invented-{invented}")});
        let token = format!("{}.{}.AA", part(&head), part(&claims()));
        assert!(matches!(site.verify(&token).await, Err(Denied::InvalidToken(_))));
        if invented == 0 {
            assert_eq!(site.asked(), 2);
        }
    }
    assert!(site.asked() <= 4, "{}", site.asked());
}

#[tokio::test]
async fn a_provider_that_fails_leaves_the_keys_that_are_known() {
    let (old, new) = (Pair::new("old", Algorithm::ES256), Pair::new("new", Algorithm::ES256));
    let site = Site::start(Answer::Hang).await;
    let (of_old, of_new) = (old.sign(&claims()), new.sign(&claims()));
    assert_eq!(site.verify(&of_old).await, Err(Denied::ProviderAway), "it never answered");
    let began = std::time::Instant::now();
    assert_eq!(site.verify(&of_old).await, Err(Denied::ProviderAway));
    assert!(began.elapsed() < FAST.within, "nobody waits for what failed just now");
    site.answers(Answer::Keys(published(&[&old])));
    site.pause().await;
    assert!(site.verify(&of_old).await.is_ok());
    let many: Vec<Value> = (0..65).map(|n| json!({"kty": "EC", "kid": n})).collect();
    for failing in [
        Answer::Hang,
        Answer::Endless,
        Answer::Line("500 Internal Server Error"),
        Answer::Line("302 Found\r\nlocation: https://evil.example/keys"),
        Answer::Line("x"),
        Answer::Keys("<html>".to_owned()),
        Answer::Keys(r#"{"keys":[]}"#.to_owned()),
        Answer::Keys(r#"{"keys":{}}"#.to_owned()),
        Answer::Keys(json!({"keys": many}).to_string()),
        Answer::Keys(r#"{"keys":[{"kty":"oct","kid":"new","k":"AAAA","alg":"HS256"}]}"#.to_owned()),
    ] {
        site.answers(failing);
        site.pause().await;
        assert_eq!(site.verify(&of_new).await, Err(Denied::ProviderAway));
        assert!(site.verify(&of_old).await.is_ok());
    }
    site.answers(Answer::Keys(published(&[&new])));
    site.pause().await;
    assert!(site.verify(&of_new).await.is_ok());
    assert!(matches!(site.verify(&of_old).await, Err(Denied::InvalidToken(_))), "it was taken back");
}

#[tokio::test]
async fn a_caller_who_goes_away_does_not_stop_a_fetch() {
    let pair = Pair::new("a", Algorithm::ES256);
    let site = Site::start(Answer::Keys(published(&[&pair]))).await;
    let token = pair.sign(&claims());
    drop(tokio::time::timeout(Duration::from_millis(1), site.verify("e30.e30.e30")).await);
    let mut asking = Box::pin(site.verify(&token));
    assert!(futures_util::poll!(asking.as_mut()).is_pending());
    drop(asking);
    while site.metrics.fetches() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(site.verify(&token).await.is_ok());
    assert_eq!(site.asked(), 1);
}

#[tokio::test]
async fn a_secret_signs_in_development() {
    let metrics = AccessMetrics::unregistered().unwrap();
    let tokens = Tokens::new(settings(), metrics).unwrap();
    let key = EncodingKey::from_secret("a".repeat(32).as_bytes()).unwrap();
    let signed = |header: &Header, key| encode(header, &claims(), key).unwrap();
    assert!(tokens.verify(&signed(&Header::default(), &key)).await.is_ok());
    let wrong = EncodingKey::from_secret(b"b").unwrap();
    assert_eq!(
        tokens.verify(&signed(&Header::default(), &wrong)).await,
        Err(Denied::InvalidToken("its signature is wrong"))
    );
    let longer = signed(&Header::new(Algorithm::HS512), &key);
    assert!(matches!(tokens.verify(&longer).await, Err(Denied::InvalidToken(_))));
}

#[test]
fn keys_for_something_else_are_left_out() {
    let (rsa, ec) = (Pair::new("rsa", Algorithm::RS256), Pair::new("ec", Algorithm::ES256));
    let checks = Checks { issuer: None, audience: None };
    let parse = |keys: Value| key_set::KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), &checks);
    let changed = |pair: &Pair, name: &str, value: Value| {
        let mut key = pair.published();
        key[name] = value;
        key
    };
    for key in [
        changed(&rsa, "use", "enc".into()),
        changed(&rsa, "alg", "RS512".into()),
        changed(&rsa, "alg", "HS256".into()),
        changed(&rsa, "key_ops", json!(["sign"])),
        changed(&rsa, "n", "AQAB".into()),
        changed(&rsa, "n", "!".into()),
        changed(&rsa, "e", Value::Null),
        changed(&rsa, "e", "AQABAQABAQAB".into()),
        changed(&rsa, "n", URL_SAFE_NO_PAD.encode([255; 2_048]).into()),
        changed(&ec, "crv", "P-384".into()),
        changed(&ec, "x", "AQAB".into()),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}),
        json!("key"),
    ] {
        assert!(parse(json!([key])).is_err(), "{key}");
    }
    let set =
        parse(json!([rsa.published(), "key", changed(&ec, "use", "sig".into()), changed(&ec, "kid", Value::Null)]));
    let set = set.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(set.len(), 3);
    assert!(set.find(Some("rsa")).is_some() && set.find(Some("other")).is_none() && set.find(None).is_none());
    let only = parse(json!([ec.published()])).unwrap_or_else(|error| panic!("{error}"));
    assert!(only.find(None).is_some());
}
