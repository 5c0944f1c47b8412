use std::time::Instant;

use axum::body::Body;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

/// Short times, and bounds that nobody reaches by chance.
pub(super) const LIMITS: Limits = Limits {
    connections: 100,
    per_address: 100,
    head: Duration::from_millis(400),
    idle: Duration::from_millis(1_200),
    is_admin: false,
};

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) stop: Stop,
    pub(super) serving: JoinHandle<()>,
}

async fn start(limits: Limits) -> Running {
    start_with(limits, None).await
}

pub(super) async fn start_with(limits: Limits, tls: Option<ListenerTls>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), Stop::default());
    let ticks = || async {
        let ticks = stream::iter(0..8).then(async |_| {
            tokio::time::sleep(Duration::from_millis(250)).await;
            Ok::<_, std::convert::Infallible>(Event::default().data("tick"))
        });
        Sse::new(Box::pin(ticks))
    };
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        "slow"
    };
    let length = async |body: Body| axum::body::to_bytes(body, 1 << 20).await.unwrap().len().to_string();
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/slow", get(slow))
        .route("/ticks", get(ticks))
        .route("/length", post(length));
    let server = Server { what: "test", listener, router, limits, metrics: ListenerMetrics::NONE, tls };
    let serving = tokio::spawn(server.serve(stop.clone(), Duration::from_secs(10)));
    Running { address, stop, serving }
}

impl Running {
    pub(super) async fn open(&self, first: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        stream
    }

    /// One request on a connection of its own, closed after it.
    async fn ask(&self, path: &str) -> String {
        to_end(self.open(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await).await
    }
}

/// What comes until the connection is closed.
pub(super) async fn to_end(mut stream: impl AsyncRead + Unpin) -> String {
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all)).await;
    drop(read.expect("it is closed"));
    String::from_utf8(all).unwrap()
}

/// One response on a connection that stays.
async fn respond_to(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut all, mut piece) = (Vec::new(), [0; 1_024]);
    while !all.ends_with(b"here") {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(all).unwrap()
}

const WHOLE: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn half_a_head_is_closed_and_an_idle_connection_later() {
    let running = start(LIMITS).await;
    let (silent, half) = (running.open("").await, running.open("GET / HT").await);
    let mut used = running.open("").await;
    respond_to(&mut used, WHOLE).await;
    let started = Instant::now();
    assert_eq!((to_end(silent).await, to_end(half).await), (String::new(), String::new()));
    assert!(started.elapsed() < LIMITS.idle, "{:?}", started.elapsed());
    respond_to(&mut used, WHOLE).await;
    // A second head is watched as the first is.
    used.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(to_end(used).await, "");
    assert!(started.elapsed() >= LIMITS.head);
}

#[tokio::test]
async fn a_stream_outlives_every_idle_time() {
    let running = start(LIMITS).await;
    let started = Instant::now();
    let all = running.ask("/ticks").await;
    assert_eq!(all.matches("data: tick").count(), 8, "{all}");
    assert!(started.elapsed() > LIMITS.idle);
}

#[tokio::test]
async fn half_open_connections_keep_nobody_out_even_of_their_address() {
    let running = start(Limits { per_address: 10, head: Duration::from_secs(60), ..LIMITS }).await;
    let mut half_open = Vec::new();
    for _ in 0..50 {
        half_open.push(running.open("GET / HTTP/1.1\r\n").await);
        if half_open.len().is_multiple_of(10) {
            assert!(running.ask("/").await.ends_with("here"));
        }
    }
    let mut closed = 0;
    for mut stream in half_open {
        let mut byte = [0];
        closed += usize::from(tokio::time::timeout(Duration::from_millis(50), stream.read(&mut byte)).await.is_ok());
    }
    assert!(closed >= 40, "{closed} made room");
}

#[tokio::test]
async fn a_client_whose_connections_all_have_requests_is_refused() {
    let running = start(Limits { per_address: 2, ..LIMITS }).await;
    let running = &running;
    let slow = async || running.ask("/slow").await;
    let late = async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        running.ask("/").await
    };
    let (first, second, refused) = tokio::join!(slow(), slow(), late);
    assert!(first.ends_with("slow") && second.ends_with("slow"));
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("too_many_connections"), "{refused}");
    assert!(running.ask("/").await.ends_with("here"));
}

#[tokio::test]
async fn a_head_is_bounded_and_a_body_larger_than_the_buffer_is_not() {
    let running = start(LIMITS).await;
    let large = format!("GET / HTTP/1.1\r\nhost: x\r\nlarge: {}\r\n\r\n", "x".repeat(HEAD_BYTES));
    assert!(to_end(running.open(&large).await).await.starts_with("HTTP/1.1 431 "));
    let body = "x".repeat(4 * READ_BYTES);
    let request = format!(
        "POST /length HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert!(to_end(running.open(&request).await).await.ends_with(&body.len().to_string()));
}

#[tokio::test]
async fn a_stop_answers_what_is_asked_and_waits_for_nothing_else() {
    let running = start(Limits { head: Duration::from_secs(60), idle: Duration::from_secs(60), ..LIMITS }).await;
    let (half, mut idle) = (running.open("GET / HTTP/1.1\r\n").await, running.open("").await);
    assert!(!respond_to(&mut idle, WHOLE).await.contains("connection: close"));
    let asked = running.open("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    running.stop.stop();
    let answer = to_end(asked).await;
    assert!(answer.contains("connection: close") && answer.ends_with("slow"), "{answer}");
    assert_eq!((to_end(half).await, to_end(idle).await), (String::new(), String::new()));
    running.serving.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn an_announced_stop_serves_on_and_closes_after_each_response() {
    let running = start(LIMITS).await;
    let mut kept = running.open("").await;
    respond_to(&mut kept, WHOLE).await;
    running.stop.announce();
    let mut answer = String::new();
    while !answer.contains("connection: close") {
        answer = respond_to(&mut running.open("").await, WHOLE).await;
    }
    assert!(respond_to(&mut kept, WHOLE).await.contains("connection: close"));
    assert_eq!(to_end(kept).await, "");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_peer_that_takes_nothing_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    limit_writes(&stream, Duration::from_millis(500)).unwrap();
    let endless = async {
        loop {
            if let Err(error) = stream.write_all(&[0; 64 << 10]).await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(60), endless).await.expect("it ends by itself");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(silent);
}
