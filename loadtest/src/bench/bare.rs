//! The baseline of an HTTP service on this machine: a handler that reads a body and answers, on threads of its own.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::BenchError;
use super::bodies::Bodies;
use super::load::{self, ClosedLoop, Throughput};

/// Runs a closed loop against it. The URL of `config` is replaced by its own.
pub async fn measure(config: ClosedLoop, bodies: &Bodies) -> Result<Throughput, BenchError> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (sender, receiver) = oneshot::channel();
    // Another runtime, because the service has one of its own too.
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async move {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            // Nobody waits for it any more: then nobody needs the server.
            let _nobody = sender.send(listener.local_addr()?);
            let router = Router::new().route("/v1/events", post(async |_: Bytes| StatusCode::ACCEPTED));
            tokio::select! {
                served = async { axum::serve(listener, router).await } => served,
                _ = stopped => Ok(()),
            }
        })
    });
    let served = match receiver.await {
        Ok(address) => load::closed_loop(&ClosedLoop { url: format!("http://{address}"), ..config }, bodies).await,
        Err(_) => Err(BenchError::Worthless("the bare handler did not start".to_owned())),
    };
    drop(stop);
    match server.join() {
        Ok(Ok(())) => served,
        Ok(Err(error)) => Err(BenchError::Worthless(format!("the bare handler: {error}"))),
        Err(_) => Err(BenchError::Worthless("the bare handler panicked".to_owned())),
    }
}
