use std::path::Path;
use std::time::Instant;

use crate::metrics::Registry;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tests::{LIMITS, Running, start_with, to_end};
use super::*;
use crate::health::{Health, Status};
use crate::tls::fixtures::{Folder, Issued, Lifetime};
use crate::tls::{ClientTls, OwnCertificate, ServerFiles, Tls, Versions};

/// An authority, a server of it, and what it shows.
struct Place {
    folder: Folder,
    authority: Issued,
    health: Health,
    files: ServerFiles,
}

impl Place {
    fn new(name: &str) -> Self {
        let (folder, authority) = (Folder::new(name), Issued::authority());
        folder.authority(&authority);
        let files = folder.write(&Issued::new(&["localhost"], Lifetime::Days(-1, 90), Some(&authority)));
        Self { folder, authority, health: Health::default(), files }
    }

    /// Replaces the files by those of a certificate that is valid so long.
    fn replace(&self, days: i64) {
        self.folder.write(&Issued::new(&["localhost"], Lifetime::Days(-1, days), Some(&self.authority)));
    }

    fn open(&self, files: ServerFiles) -> Tls {
        Tls::open(files, &Registry::new(), &self.health).unwrap()
    }

    async fn start(&self, limits: Limits) -> Running {
        start_with(limits, Some(self.open(self.files.clone()).public())).await
    }

    fn client(&self) -> Arc<ClientConfig> {
        ClientTls::of_authorities(&self.folder.path().join("ca.pem")).unwrap().config()
    }

    fn trouble(&self) -> String {
        let report = self.health.report();
        let tls = report.components.get("tls").unwrap();
        assert_eq!(tls.status == Status::Up, tls.detail.is_empty());
        tls.detail.clone()
    }
}

async fn connect(running: &Running, client: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(running.address).await?;
    TlsConnector::from(client).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

const LAST: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

async fn ask(stream: TlsStream<TcpStream>) -> io::Result<String> {
    let mut stream = stream;
    stream.write_all(LAST.as_bytes()).await?;
    let mut all = String::new();
    stream.read_to_string(&mut all).await?;
    Ok(all)
}

/// One response on a connection that stays.
async fn ask_once(stream: &mut (impl AsyncRead + tokio::io::AsyncWrite + Unpin)) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let (mut all, mut piece) = (Vec::new(), [0; 1_024]);
    while !all.ends_with(b"here") {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(all).unwrap()
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The certificate that the peer shows.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn tls_is_1_3_with_http_1_1_and_tells_browsers_to_stay() {
    let place = Place::new("serves");
    let running = place.start(LIMITS).await;
    let mut offering = (*place.client()).clone();
    offering.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = connect(&running, Arc::new(offering)).await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(b"http/1.1".as_slice()));
    let answer = ask(stream).await.unwrap();
    assert!(answer.contains("strict-transport-security: max-age=31536000; includeSubDomains\r\n"), "{answer}");
    let plain = start_with(LIMITS, None).await;
    let answer = to_end(plain.open(LAST).await).await;
    assert!(answer.ends_with("here") && !answer.contains("strict-transport-security"), "{answer}");
}

#[tokio::test]
async fn tls_1_2_is_refused_unless_it_is_asked_for() {
    let place = Place::new("versions");
    let mut roots = RootCertStore::empty();
    roots.add(place.authority.certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
    let old = Arc::new(old.with_root_certificates(roots).with_no_client_auth());
    let running = place.start(LIMITS).await;
    let error = connect(&running, Arc::clone(&old)).await.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "the alert says why: {error}");
    let from_12 = place.open(ServerFiles { versions: Versions::From12, ..place.files.clone() });
    let running = start_with(LIMITS, Some(from_12.public())).await;
    assert!(ask(connect(&running, old).await.unwrap()).await.unwrap().ends_with("here"));
    assert!(ask(connect(&running, place.client()).await.unwrap()).await.unwrap().ends_with("here"));
}

#[tokio::test]
async fn plain_http_to_tls_and_tls_to_plain_http_are_answered() {
    let place = Place::new("mixed");
    let running = place.start(Limits { head: Duration::from_secs(60), ..LIMITS }).await;
    let started = Instant::now();
    let answer = to_end(running.open(LAST).await).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("tls_required"), "{answer}");
    let plain = start_with(Limits { head: Duration::from_secs(60), ..LIMITS }, None).await;
    let error = connect(&plain, place.client()).await.unwrap_err();
    assert!(error.to_string().contains("corrupt message"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn half_a_handshake_is_closed_as_half_a_head_is() {
    let place = Place::new("half");
    let running = place.start(LIMITS).await;
    let started = Instant::now();
    let (silent, half) = (running.open("").await, running.open("\u{16}\u{3}\u{1}").await);
    assert_eq!((to_end(silent).await, to_end(half).await), (String::new(), String::new()));
    // A handshake, and then nothing.
    assert!(to_end(connect(&running, place.client()).await.unwrap()).await.is_empty());
    assert!(started.elapsed() < 3 * LIMITS.head, "{:?}", started.elapsed());
    // A used connection stays for its own time.
    let mut used = connect(&running, place.client()).await.unwrap();
    ask_once(&mut used).await;
    tokio::time::sleep(LIMITS.head + Duration::from_millis(200)).await;
    ask_once(&mut used).await;
}

#[tokio::test]
async fn half_open_handshakes_keep_nobody_out_and_hold_up_no_stop() {
    let place = Place::new("crowd");
    let limits = Limits { connections: 500, per_address: 100, head: Duration::from_secs(60), ..LIMITS };
    let running = place.start(limits).await;
    let mut half_open = Vec::new();
    for count in 0..2_000 {
        let first = if count % 2 == 0 { "" } else { "\u{16}\u{3}\u{1}\u{1}\u{0}\u{1}" };
        half_open.push(running.open(first).await);
        if count % 200 == 0 {
            assert!(ask(connect(&running, place.client()).await.unwrap()).await.unwrap().ends_with("here"));
        }
    }
    assert!(ask(connect(&running, place.client()).await.unwrap()).await.unwrap().ends_with("here"));
    let started = Instant::now();
    running.stop.stop();
    running.serving.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_certificate_is_replaced_while_connections_are_open() {
    let place = Place::new("replaced");
    let running = place.start(Limits { idle: Duration::from_secs(60), ..LIMITS }).await;
    let mut open = connect(&running, place.client()).await.unwrap();
    ask_once(&mut open).await;
    let first = shown(&open);
    let see = async || shown(&connect(&running, place.client()).await.unwrap());

    place.replace(80);
    until("the new one is shown", async || see().await != first).await;
    let second = see().await;
    ask_once(&mut open).await;

    std::fs::write(&place.files.certificate, "-----BEGIN CERTIFICATE-----\n").unwrap();
    until("a broken one is told", async || place.trouble().contains("cert.pem")).await;
    assert_eq!(see().await, second);
    ask_once(&mut open).await;

    place.replace(70);
    until("a good one is taken again", async || see().await != second).await;
    until("and told", async || place.trouble().is_empty()).await;
    ask_once(&mut open).await;
}

#[tokio::test]
async fn an_admin_port_takes_only_certificates_of_its_authority() {
    let place = Place::new("clients");
    let own_file = |name: &str, issuer: Option<&Issued>| {
        let issued = Issued::new(&["prometheus"], Lifetime::Days(-1, 9), issuer);
        let file = |end: &str| place.folder.path().join(format!("{name}.{end}"));
        let own = OwnCertificate { certificate: file("pem"), key: file("key") };
        std::fs::write(&own.certificate, issued.certificate_pem()).unwrap();
        std::fs::write(&own.key, issued.key_pem()).unwrap();
        own
    };
    let (ours, strangers) = (Issued::authority(), Issued::authority());
    let ca = place.folder.path().join("clients.pem");
    std::fs::write(&ca, ours.certificate_pem()).unwrap();
    let tls = place.open(ServerFiles { admin_client_ca: Some(ca), ..place.files.clone() });
    let admin = start_with(LIMITS, Some(tls.admin())).await;
    let client =
        |own: Option<&OwnCertificate>| ClientTls::of_own_server(&place.files.certificate, own).unwrap().config();
    let asked = async |running: &Running, own: Option<&OwnCertificate>| {
        // TLS 1.3: the client is done before the server has looked at its certificate.
        match connect(running, client(own)).await {
            Ok(stream) => ask(stream).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    let (good, wrong) = (own_file("good", Some(&ours)), own_file("wrong", Some(&strangers)));
    assert!(asked(&admin, Some(&good)).await.unwrap().ends_with("here"));
    for (own, alert) in
        [(None, "CertificateRequired"), (Some(&wrong), "fatal alert"), (Some(&own_file("self", None)), "fatal alert")]
    {
        let error = asked(&admin, own).await.unwrap_err();
        assert!(error.contains(alert), "{alert}: {error}");
    }
    let public = start_with(LIMITS, Some(tls.public())).await;
    assert!(asked(&public, None).await.unwrap().ends_with("here"));
}

#[tokio::test]
async fn commands_believe_only_the_certificate_of_their_own_server() {
    let (place, other) = (Place::new("own"), Place::new("foreign"));
    let running = place.start(LIMITS).await;
    let believing = |file: &Path| ClientTls::of_own_server(file, None).unwrap().config();
    assert!(
        ask(connect(&running, believing(&place.files.certificate)).await.unwrap()).await.unwrap().ends_with("here")
    );
    assert!(connect(&running, believing(&other.files.certificate)).await.is_err());
}
