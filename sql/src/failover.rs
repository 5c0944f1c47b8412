//! Connects to whichever of several servers answers.
//!
//! It stays with one for as long as that takes connections, so that a statement and what stops it meet on one server; each process begins with
//! another one. A server that does not connect is passed over, and the next one is asked: a request fails only when none connects, or when its
//! server goes away meanwhile. One that connects and then says nothing is for the deadline of the request.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::Uri;
use tower::{Service, ServiceExt};

type BoxError = Box<dyn Error + Send + Sync>;

/// A connector in front of another one, which it gives one address after the other.
#[derive(Clone)]
pub(crate) struct Failover<C> {
    inner: C,
    servers: Arc<[Uri]>,
    /// Which one was reached last.
    current: Arc<AtomicUsize>,
}

impl<C> Failover<C> {
    /// Addresses that are none are left out: the configuration has refused them.
    pub(crate) fn new<'a>(inner: C, urls: impl Iterator<Item = &'a str>) -> Self {
        let servers: Arc<[Uri]> = urls.filter_map(|url| url.parse().ok()).collect();
        let first = std::process::id() as usize % servers.len().max(1);
        Self { inner, servers, current: Arc::new(AtomicUsize::new(first)) }
    }
}

impl<C> Service<Uri> for Failover<C>
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: Send,
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
        let Self { inner, servers, current } = self.clone();
        Box::pin(async move {
            let first = current.load(Ordering::Relaxed);
            let mut failed: Option<BoxError> = None;
            for at in (0..servers.len()).map(|step| (first + step) % servers.len()) {
                let server = servers.get(at).unwrap_or(&asked).clone();
                match inner.clone().oneshot(server).await {
                    Ok(connection) => {
                        current.store(at, Ordering::Relaxed);
                        return Ok(connection);
                    }
                    Err(error) => failed = Some(error.into()),
                }
            }
            Err(failed.unwrap_or_else(|| format!("{asked} names no server").into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::service_fn;

    use super::*;

    /// Servers of which those named are away.
    async fn reached(
        failover: &Failover<
            impl Service<Uri, Response = String, Error = BoxError, Future: Send> + Clone + Send + 'static,
        >,
    ) -> Result<String, BoxError> {
        failover.clone().oneshot(Uri::from_static("http://any")).await
    }

    #[tokio::test]
    async fn one_that_is_away_is_passed_over_and_one_that_answers_is_kept() {
        let away = Arc::new(AtomicUsize::new(1));
        let state = Arc::clone(&away);
        let connector = service_fn(move |uri: Uri| {
            let is_away = uri.host() == Some(["none", "a", "b"][state.load(Ordering::Relaxed)]);
            async move { if is_away { Err("refused".into()) } else { Ok(uri.host().unwrap_or_default().to_owned()) } }
        });
        let failover = Failover::new(connector, ["http://a", "http://b"].into_iter());
        failover.current.store(0, Ordering::Relaxed);
        assert_eq!(reached(&failover).await.unwrap(), "b");
        away.store(0, Ordering::Relaxed);
        assert_eq!(reached(&failover).await.unwrap(), "b", "it stays where it is");
        away.store(2, Ordering::Relaxed);
        assert_eq!(reached(&failover).await.unwrap(), "a");
    }
}
