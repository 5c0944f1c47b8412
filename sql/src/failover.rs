//! Connects to whichever of several servers answers.
//!
//! ```text
//! the server reached last, then the others:  connect -> GET /ping -> answered: the request goes there, and so do the next ones
//!                                                    '-> not within a second: the next one
//! none did: once more those that were only slow, for longer -> none: the request fails
//! ```
//!
//! It stays with one for as long as that answers, so that a statement and what stops it meet on one server; each process begins with
//! another one. A request that has its connection is sent there and nowhere else: whether it was carried out is not known here, and who repeats an
//! insert does so under its token, on a server that holds the same.
//!
//! Failure cases: a server that refuses connections, or accepts them and hangs (stopped, its disk does not answer), is passed over before anything was
//! sent to it, and not tried again while another one answers; what had a connection already when it began to hang waits for its own deadline: requests
//! under way, and one for each idle connection of the last two seconds. All hang: a request fails after [`SOON`] and [`AT_LAST`] for each.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Body;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::rt::{Read, Write};
use hyper::{Request, Uri, Version};
use tower::{Service, ServiceExt};

type BoxError = Box<dyn Error + Send + Sync>;

/// How long a server may take to be connected to and to greet, where there is another one.
const SOON: Duration = Duration::from_secs(1);

/// The same when no other one does.
const AT_LAST: Duration = Duration::from_secs(5);

/// What ClickHouse answers without looking who asks, also when no query may run. A balancer in front answers 502 to 504 for servers that are away.
const GREETING: &str = "/ping";

/// A connector in front of another one, which it gives one address after the other.
#[derive(Clone)]
pub(crate) struct Failover<C> {
    inner: C,
    servers: Arc<[Uri]>,
    /// Which one was reached last.
    current: Arc<AtomicUsize>,
}

/// Why a server was passed over.
enum PassedOver {
    Failed(BoxError),
    /// It may still answer somebody with a longer deadline.
    Slow,
}

impl<C> Failover<C> {
    /// Addresses that are none are left out: the configuration has refused them.
    pub(crate) fn new<'a>(inner: C, urls: impl Iterator<Item = &'a str>) -> Self {
        let servers: Arc<[Uri]> = urls.filter_map(|url| url.parse().ok()).collect();
        let first = std::process::id() as usize % servers.len().max(1);
        Self { inner, servers, current: Arc::new(AtomicUsize::new(first)) }
    }
}

impl<C> Failover<C>
where
    C: Service<Uri> + Clone,
    C::Response: Read + Write + Unpin,
    C::Error: Into<BoxError>,
{
    /// A connection to the first that greets.
    async fn reach(self, asked: &Uri) -> Result<C::Response, BoxError> {
        let (count, first) = (self.servers.len(), self.current.load(Ordering::Relaxed));
        let mut places: Vec<usize> = (0..count).map(|step| (first + step) % count).collect();
        let mut failed = None;
        for deadline in [SOON, AT_LAST] {
            let mut slow = Vec::new();
            for place in places {
                let Some(server) = self.servers.get(place) else { continue };
                match self.greeted(server, deadline).await {
                    Ok(connection) => {
                        self.current.store(place, Ordering::Relaxed);
                        return Ok(connection);
                    }
                    Err(PassedOver::Failed(error)) => failed = Some(error),
                    Err(PassedOver::Slow) => slow.push(place),
                }
            }
            places = slow;
        }
        if !places.is_empty() {
            return Err(format!("no server greets within {} s", AT_LAST.as_secs()).into());
        }
        Err(failed.unwrap_or_else(|| format!("{asked} names no server").into()))
    }

    async fn greeted(&self, server: &Uri, deadline: Duration) -> Result<C::Response, PassedOver> {
        let greeted = async {
            match greet(self.connect(server).await?, server).await? {
                Some(connection) => Ok(connection),
                None => self.connect(server).await,
            }
        };
        match tokio::time::timeout(deadline, greeted).await {
            Ok(greeted) => greeted.map_err(PassedOver::Failed),
            Err(_) => Err(PassedOver::Slow),
        }
    }

    async fn connect(&self, server: &Uri) -> Result<C::Response, BoxError> {
        self.inner.clone().oneshot(server.clone()).await.map_err(Into::into)
    }
}

/// Gives the connection back when the server has answered on it, `None` when it answered and closes it.
async fn greet<T: Read + Write + Unpin>(connection: T, server: &Uri) -> Result<Option<T>, BoxError> {
    let (mut sender, exchange) = http1::handshake(connection).await?;
    let host = server.authority().map_or("", |authority| authority.as_str());
    let ask = Request::get(GREETING).header(HOST, host).body(String::new())?;
    let answer = async move {
        let answer = sender.send_request(ask).await?;
        let said = answer.headers().get(CONNECTION).map(|what| what.as_bytes());
        let closes =
            answer.version() == Version::HTTP_10 || said.is_some_and(|what| what.eq_ignore_ascii_case(b"close"));
        let status = answer.status();
        let mut body = answer.into_body();
        while let Some(part) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            part?;
        }
        // `sender` goes here, which ends the exchange.
        Ok::<_, hyper::Error>((status, closes))
    };
    let (parts, (status, closes)) = tokio::try_join!(exchange.without_shutdown(), answer)?;
    if status.is_server_error() {
        return Err(format!("{host} greets with {status}").into());
    }
    Ok((!closes && parts.read_buf.is_empty()).then_some(parts.io))
}

impl<C> Service<Uri> for Failover<C>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Unpin + Send,
    C::Error: Into<BoxError>,
    C::Future: Send,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, asked: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.reach(&asked).await })
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::client::legacy::Client;
    use hyper_util::client::legacy::connect::HttpConnector;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// What a server does with connections that it has accepted.
    #[derive(Clone, Copy)]
    enum Does {
        Answer,
        AnswerAfter(Duration),
        AnswerAndClose,
        Say502,
        Hang,
    }

    /// A server, and how many connections it was asked for.
    struct Server {
        url: String,
        accepted: Arc<AtomicUsize>,
    }

    impl Server {
        async fn start(does: Does) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let accepted = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&accepted);
            tokio::spawn(async move {
                loop {
                    let (connection, _) = listener.accept().await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(connection, does));
                }
            });
            Self { url, accepted }
        }
    }

    /// Each head is a request; the body of an answer is its path.
    async fn serve(mut connection: TcpStream, does: Does) {
        let (status, closing, pause) = match does {
            Does::Answer => ("200 OK", "", Duration::ZERO),
            Does::AnswerAfter(pause) => ("200 OK", "", pause),
            Does::AnswerAndClose => ("200 OK", "Connection: Close\r\n", Duration::ZERO),
            Does::Say502 => ("502 Bad Gateway", "", Duration::ZERO),
            Does::Hang => return std::future::pending().await,
        };
        let mut head = Vec::new();
        while let Ok(byte) = connection.read_u8().await {
            head.push(byte);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            tokio::time::sleep(pause).await;
            let path = String::from_utf8(head.split_off(0)).unwrap().split(' ').nth(1).unwrap().to_owned();
            let answer = format!("HTTP/1.1 {status}\r\n{closing}Content-Length: {}\r\n\r\n{path}", path.len());
            connection.write_all(answer.as_bytes()).await.unwrap();
            if !closing.is_empty() {
                return;
            }
        }
    }

    /// Requests, each on a connection of its own, to servers of which the first is asked first.
    async fn ask(servers: &[&str], times: usize) -> Result<(), String> {
        let connector = Failover::new(HttpConnector::new(), servers.iter().copied());
        connector.current.store(0, Ordering::Relaxed);
        for _ in 0..times {
            let client: Client<_, String> = Client::builder(TokioExecutor::new()).build(connector.clone());
            let answer =
                tokio::time::timeout(Duration::from_secs(20), client.get(Uri::from_static("http://any/question")));
            let answer = answer
                .await
                .map_err(|_| "it waits for ever".to_owned())?
                .map_err(|error| error.source().map_or_else(|| error.to_string(), ToString::to_string))?;
            let mut body = answer.into_body();
            let part = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
            assert_eq!(part.into_data().unwrap(), "/question");
        }
        Ok(())
    }

    fn accepted(server: &Server) -> usize {
        server.accepted.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn one_that_hangs_or_fails_is_passed_over_once_and_one_that_answers_is_kept() {
        for does in [Does::Hang, Does::Say502] {
            let (odd, works, third) =
                (Server::start(does).await, Server::start(Does::Answer).await, Server::start(Does::Answer).await);
            ask(&[&odd.url, &works.url, &third.url], 3).await.unwrap();
            assert_eq!([&odd, &works, &third].map(accepted), [1, 3, 0]);
        }
        let works = Server::start(Does::Answer).await;
        // Nobody listens on the port of the discard protocol.
        ask(&["http://127.0.0.1:9", &works.url], 2).await.unwrap();
        assert_eq!(accepted(&works), 2);
    }

    #[tokio::test]
    async fn one_that_closes_after_its_greeting_is_connected_to_again() {
        let closes = Server::start(Does::AnswerAndClose).await;
        ask(&[&closes.url], 1).await.unwrap();
        assert_eq!(accepted(&closes), 2);
    }

    #[tokio::test]
    async fn one_that_is_slow_is_better_than_none() {
        let slow = Server::start(Does::AnswerAfter(SOON + Duration::from_millis(200))).await;
        ask(&["http://127.0.0.1:9", &slow.url], 1).await.unwrap();
        assert_eq!(accepted(&slow), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_fails_when_none_greets() {
        let hangs = [Server::start(Does::Hang).await, Server::start(Does::Hang).await];
        let error = ask(&[&hangs[0].url, &hangs[1].url], 1).await.unwrap_err();
        assert!(error.contains("no server greets within 5 s"), "{error}");
    }
}
