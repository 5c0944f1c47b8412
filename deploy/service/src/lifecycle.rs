//! Start and shutdown: signals, serving until shutdown, and draining within a budget.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Everything finished in time.
    Drained,
    /// The budget ran out first.
    GaveUp,
}

/// Waits for SIGINT or SIGTERM.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut stream) => {
                stream.recv().await;
            }
            Err(error) => {
                tracing::error!(%error, "SIGTERM cannot be awaited; only ctrl-C stops this process");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Waits for `work`, at most for `budget`, and logs which of the two it was.
pub async fn drain(what: &str, budget: Duration, work: impl Future<Output = ()>) -> Drain {
    match tokio::time::timeout(budget, work).await {
        Ok(()) => {
            tracing::info!(what, "drained");
            Drain::Drained
        }
        Err(_) => {
            tracing::warn!(what, budget_ms = budget.as_millis(), "gave up draining");
            Drain::GaveUp
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: cannot listen on {address}: {source}; is another process using it?")]
pub struct BindError {
    /// The variable that holds the address.
    pub variable: &'static str,
    pub address: SocketAddr,
    /// What the system said.
    pub source: std::io::Error,
}

/// Listens on `address`, which `variable` configured.
pub async fn bind(variable: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { variable, address, source })
}

/// The longest that a peer may take nothing of what was written to it: an answer, or a stream of events.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Closes a connection whose peer takes nothing for `timeout`. The kernel sees to it, because a server that waits for room
/// to write polls nothing else. Elsewhere than on Linux there is no such option, and only dead peers are noticed.
fn limit_writes(stream: &TcpStream, timeout: Duration) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(stream, ms)?;
    }
    Ok(())
}

/// Serves `router` until `stop` is cancelled and the requests in flight are answered, at most `budget` longer.
///
/// `TCP_NODELAY` is set: answers are small, and Nagle's algorithm would hold them back for up to 40 ms.
pub async fn serve(
    what: &'static str,
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    budget: Duration,
) {
    use axum::serve::ListenerExt;
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        if let Err(error) = limit_writes(stream, WRITE_TIMEOUT) {
            tracing::debug!(%error, "TCP_USER_TIMEOUT was refused");
        }
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let signal = stop.clone();
    let server = axum::serve(listener, service).with_graceful_shutdown(async move { signal.cancelled().await });
    let mut running = std::pin::pin!(std::future::IntoFuture::into_future(server));
    tokio::select! {
        ended = &mut running => report(what, ended),
        () = async { stop.cancelled().await; tokio::time::sleep(budget).await } => {
            tracing::warn!(what, budget_ms = budget.as_millis(), "requests were still open when the budget ran out");
        }
    }
}

fn report(what: &str, ended: std::io::Result<()>) {
    match ended {
        Ok(()) => tracing::info!(what, "stopped"),
        Err(error) => tracing::error!(what, %error, "the server failed"),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

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
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        drop(silent);
    }
}
