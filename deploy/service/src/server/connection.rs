//! One connection: after the handshake, where TLS is spoken, hyper speaks HTTP, and what the connection waits for is watched.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, Request, Response, header};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tower::Service as _;

use super::descriptors::Descriptor;
use super::handshake::handshake;
use super::pace::Paced;
use super::slot::{Phase, Slot, Verdict};
use super::table::Place;
use super::{HALF_OPEN_WITHIN, HEAD_BYTES, READ_BYTES, Shared};
use crate::http::STRICT_TRANSPORT;
use crate::rate_limit::Peer;

pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Place,
    /// The other end.
    pub(super) peer: IpAddr,
    /// What is given back at its end.
    pub(super) guard: (watch::Receiver<()>, Option<Descriptor>),
}

impl Connection {
    pub(super) async fn serve(self, stream: TcpStream) {
        let Self { shared, place, peer, guard } = self;
        shared.metrics.opened();
        match &shared.tls {
            None => Box::pin(serve(stream, &shared, &place.slot, Peer(peer))).await,
            Some(tls) => {
                if let Some(stream) = handshake(tls, stream, &shared, &place.slot).await {
                    Box::pin(serve(stream, &shared, &place.slot, Peer(peer))).await;
                }
            }
        }
        shared.metrics.gone();
        drop((place, guard));
    }
}

/// What interrupts a connection, whatever it does.
enum Signal {
    /// It makes room for another.
    Replaced,
    Drain,
    GiveUp,
}

type Signals<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Signal> + Send + 'a>>>;

/// Each is looked at when it has happened, and not whenever the connection moves: all connections share the tokens, and looking at one takes
/// its lock.
fn signals<'a>(shared: &'a Shared, slot: &'a Slot) -> Signals<'a> {
    let signals = Signals::new();
    signals.push(Box::pin(async {
        slot.replaced.notified().await;
        Signal::Replaced
    }));
    signals.push(Box::pin(async {
        shared.drain.cancelled().await;
        Signal::Drain
    }));
    signals.push(Box::pin(async {
        shared.give_up.cancelled().await;
        Signal::GiveUp
    }));
    signals
}

async fn serve<S>(stream: S, shared: &Arc<Shared>, slot: &Arc<Slot>, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let socket = TokioIo::new(Watched { stream, slot: Arc::clone(slot) });
    let service = service_fn(|request| respond(shared, slot, peer, request));
    let connection = http1::Builder::new()
        // Heads have a deadline of their own: hyper's would close connections that wait for their next request, too.
        .header_read_timeout(None)
        .max_buf_size(READ_BYTES)
        .max_header_size(HEAD_BYTES)
        .serve_connection(socket, service);
    let mut connection = std::pin::pin!(connection);
    // A handshake took some of the time of the first head.
    let mut look = std::pin::pin!(sleep(match slot.verdict(shared.limits) {
        Verdict::Wait(left) => left,
        Verdict::Close(_) => Duration::ZERO,
    }));
    let mut is_last_request = false;
    let mut signals = signals(shared, slot);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "a connection ended");
                }
                return;
            }
            Some(signal) = signals.next() => match signal {
                Signal::GiveUp => return,
                Signal::Replaced if slot.phase() == Phase::Head => return,
                Signal::Drain if is_last_request => {}
                // An idle connection is closed at once; a request that has just begun is answered.
                Signal::Replaced | Signal::Drain => {
                    connection.as_mut().graceful_shutdown();
                    is_last_request = true;
                    if matches!(signal, Signal::Drain) {
                        look.as_mut().reset(Instant::now() + HALF_OPEN_WITHIN);
                    }
                }
            },
            () = look.as_mut() => match slot.verdict(shared.limits) {
                _ if is_last_request && slot.phase() == Phase::Head => return,
                Verdict::Wait(time) => look.as_mut().reset(Instant::now() + time),
                Verdict::Close(reason) => {
                    shared.metrics.closed(reason);
                    return;
                }
            },
        }
    }
}

/// Answers one request.
fn respond(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    peer: Peer,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + use<> {
    let under_way = UnderWay::begin(slot);
    request.extensions_mut().insert(peer);
    let (of_body, drained, shared) = (Arc::clone(shared), Arc::clone(shared), Arc::clone(shared));
    let request = request.map(|body| match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(Paced::new(
            body,
            move || drained.drain.clone().cancelled_owned(),
            move || of_body.metrics.closed("slow_body"),
        )),
    });
    let response = shared.router.clone().call(request);
    async move {
        let mut response = response.await?;
        if shared.is_closing.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if shared.tls.is_some() {
            response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT);
        }
        Ok(response.map(|body| Answer { body, _under_way: under_way }))
    }
}

/// A request, until its response has been handed over.
struct UnderWay(Arc<Slot>);

impl UnderWay {
    fn begin(slot: &Arc<Slot>) -> Self {
        slot.enter(Phase::Request);
        Self(Arc::clone(slot))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// The body of a response.
struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that notes when bytes come.
struct Watched<S> {
    stream: S,
    slot: Arc<Slot>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.slot.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }
}
