//! The HTTP server of every listener of every program: hyper for the protocol, and around it the bounds that one client may not pass.
//!
//! ```text
//! accept -> room? -> one task per connection: (TLS ->) head -> request -> response -> idle -> head …        (`connection`)
//!            |                                    10 s        body: 1 KiB/s       75 s
//!            '-> full: the oldest connection without a request makes room; when all have one, 503 (`table`, `refusal`)
//! stop announced -> `Connection: close` on each response -> stop -> what waits is accepted, and no more; idle ones are closed, requests answered
//! ```
//!
//! Failure cases:
//! * a client opens connections and sends nothing, or half a head: each is closed after [`HEAD_WITHIN`]. At the bound of its address its own
//!   oldest ones make room, so others notice nothing, and not even a second client of that address is refused;
//! * it sends a body byte by byte: below [`pace::LEAST_BYTES`] per window the body fails, and its connection is closed;
//! * it reads no response: the kernel closes after [`WRITE_WITHIN`]. A stream of events is a request until it ends, so no idle time counts;
//! * all of many addresses together: the address with the most connections makes room first;
//! * descriptors become few: public listeners stop accepting while the reserve is all that is left ([`descriptors`]), so admin ports, ClickHouse
//!   and files have theirs. `accept` failing nevertheless is logged once, makes room, and is tried again after a pause;
//! * a stop: a connection without a whole head is no request, and is dropped after half a second. What is not answered within the budget
//!   is cut off.
//!
//! TLS ([`crate::tls`]) is of the connection: its handshake has the bounds and, together with the first head, the time of a head (`handshake`). axum-server
//! would bring TLS with a second server beside this one, without its bounds.
//!
//! Behind a load balancer all connections come from few addresses: raise `TALLYHOUSE_CONNECTIONS_PER_ADDRESS` there.

mod address;
mod connection;
pub mod descriptors;
mod handshake;
pub mod pace;
mod refusal;
mod slot;
mod table;
pub mod telemetry;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::connection::Connection;
use self::descriptors::{Descriptor, Descriptors};
use self::refusal::Refusals;
use self::table::{Full, Table};
use self::telemetry::ListenerMetrics;
use crate::lifecycle::Stop;
use crate::tls::ListenerTls;

/// See [`Limits::head`]. Not configurable.
pub const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// The longest that a peer may take nothing of what was written to it: a response, or a stream of events.
pub const WRITE_WITHIN: Duration = Duration::from_secs(30);

/// At a stop, what is left of a head may take this long.
const HALF_OPEN_WITHIN: Duration = Duration::from_millis(500);

/// A request line and its headers, which one connection may make the process hold.
const HEAD_BYTES: usize = 32 << 10;

/// What is read of a body at a time.
const READ_BYTES: usize = 64 << 10;

/// Between two attempts to accept after one failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a listener may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one address.
    pub per_address: usize,
    /// A whole head has to arrive within this time, of the first request from the connection on.
    pub head: Duration,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// Whether its connections take from the reserve of descriptors: for operators.
    pub is_admin: bool,
}

impl Limits {
    /// Of an admin port, which few may reach.
    pub const ADMIN: Self =
        Self { connections: 64, per_address: 64, head: HEAD_WITHIN, idle: Duration::from_secs(75), is_admin: true };
}

/// A listener and what it serves.
pub struct Server {
    /// Its name in logs.
    pub what: &'static str,
    pub listener: TcpListener,
    pub router: Router,
    pub limits: Limits,
    pub metrics: ListenerMetrics,
    /// Plain HTTP without.
    pub tls: Option<ListenerTls>,
}

/// What the connections of a listener share.
struct Shared {
    router: Router,
    limits: Limits,
    table: Arc<Table>,
    metrics: ListenerMetrics,
    tls: Option<ListenerTls>,
    /// A stop is announced: each response closes its connection.
    is_closing: AtomicBool,
    /// No further request.
    drain: CancellationToken,
    /// The budget of the stop is used up.
    give_up: CancellationToken,
}

impl Server {
    /// Serves until `stop`, and until the requests in flight are answered, at most `budget` longer.
    pub async fn serve(self, stop: Stop, budget: Duration) {
        let Self { what, listener, router, limits, metrics, tls } = self;
        let descriptors = Descriptors::of_process();
        if !limits.is_admin && limits.connections > descriptors.budget() {
            let budget = descriptors.budget();
            tracing::warn!(what, budget, wanted = limits.connections, "fewer connections fit: raise `ulimit -n`");
        }
        let shared = Arc::new(Shared {
            router,
            limits,
            table: Arc::new(Table::new(limits)),
            metrics,
            tls,
            is_closing: AtomicBool::new(false),
            drain: CancellationToken::new(),
            give_up: CancellationToken::new(),
        });
        // Each connection holds the receiver: when the last is gone, all are closed.
        let (open, guard) = watch::channel(());
        let accepting =
            Accepting { what, shared: Arc::clone(&shared), descriptors, guard, refusals: Refusals::default() };
        tokio::select! {
            () = stop.stopped() => {}
            () = accepting.run(&listener) => {}
            () = announce(&stop, &shared) => {}
        }
        accepting.take_what_waits(listener);
        drop(accepting);
        shared.drain.cancel();
        match tokio::time::timeout(budget, open.closed()).await {
            Ok(()) => tracing::info!(what, "stopped"),
            Err(_) => {
                let open = shared.table.open();
                tracing::warn!(
                    what,
                    open,
                    budget_ms = budget.as_millis(),
                    "requests were still open when the budget ran out"
                );
                shared.give_up.cancel();
            }
        }
    }
}

/// Never ends.
async fn announce(stop: &Stop, shared: &Shared) {
    stop.announced().await;
    shared.is_closing.store(true, Ordering::Relaxed);
    std::future::pending().await
}

struct Accepting {
    what: &'static str,
    shared: Arc<Shared>,
    descriptors: &'static Descriptors,
    guard: watch::Receiver<()>,
    refusals: Refusals,
}

impl Accepting {
    /// Never ends.
    async fn run(&self, listener: &TcpListener) {
        let mut has_failed = false;
        loop {
            let descriptor = self.descriptor().await;
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if std::mem::take(&mut has_failed) {
                        tracing::info!(what = self.what, "connections are accepted again");
                    }
                    self.begin(stream, peer, descriptor);
                }
                // Of that one connection, which is gone.
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::error!(what = self.what, %error, "no connection can be accepted; trying again");
                    }
                    self.make_room();
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    /// Takes connections that the kernel has made and nobody has accepted yet, and then no more: closing the listener would reset them, with
    /// requests that a load balancer had sent already.
    fn take_what_waits(&self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let descriptor = if self.shared.limits.is_admin { None } else { self.descriptors.take() };
                    if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                        self.begin(stream, peer, descriptor);
                    }
                }
                Err(error) if is_of_connection(&error) => {}
                // None is left, or none can be taken.
                Err(_) => return,
            }
        }
    }

    /// Waits until there is a descriptor beside the reserve. Connections without a request make room.
    async fn descriptor(&self) -> Option<Descriptor> {
        if self.shared.limits.is_admin {
            return None;
        }
        loop {
            if let Some(descriptor) = self.descriptors.take() {
                return Some(descriptor);
            }
            self.make_room();
            self.descriptors.released(ACCEPT_AGAIN).await;
        }
    }

    fn make_room(&self) {
        if self.shared.table.replace_one() {
            self.shared.metrics.closed("replaced");
        }
    }

    fn begin(&self, stream: TcpStream, peer: SocketAddr, descriptor: Option<Descriptor>) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "an option of a connection was refused");
        }
        match self.shared.table.enter(peer.ip()) {
            Ok((place, replaced)) => {
                if replaced {
                    self.shared.metrics.closed("replaced");
                }
                let shared = Arc::clone(&self.shared);
                let connection = Connection { shared, place, peer: peer.ip(), guard: (self.guard.clone(), descriptor) };
                tokio::spawn(connection.serve(stream));
            }
            Err(full) => {
                self.shared.metrics.refused(match full {
                    Full::OfAddress => "address",
                    Full::All => "connections",
                });
                self.refusals.answer(stream, descriptor, self.shared.tls.is_some());
            }
        }
    }
}

/// `TCP_NODELAY`: answers are small, and Nagle's algorithm would hold them back for up to 40 ms.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    limit_writes(stream, WRITE_WITHIN)
}

/// Closes a connection whose peer takes nothing for `timeout`. The kernel sees to it, because a server that waits for room
/// to write polls nothing else. Elsewhere than on Linux there is no such option, and only dead peers are noticed.
fn limit_writes(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(stream, ms)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, timeout);
    Ok(())
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionRefused | Kind::ConnectionAborted | Kind::ConnectionReset)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
