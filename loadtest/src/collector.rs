//! A collector of OpenTelemetry on loopback: it takes OTLP over HTTP and remembers every span.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What it does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Takes it.
    Takes,
    /// 503.
    Refuses,
    /// Never answers.
    Hangs,
}

/// A span as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    pub service: String,
    /// In hexadecimal digits, as in `traceparent`.
    pub trace_id: String,
    pub span_id: String,
    /// Empty: it has none.
    pub parent: String,
    pub name: String,
    /// As `SpanKind` counts: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    pub took_ns: u64,
    pub attributes: BTreeMap<String, String>,
    /// Why it failed.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Seen {
    mode: AtomicU8,
    calls: AtomicU64,
    spans: Mutex<Vec<Recorded>>,
    headers: Mutex<HeaderMap>,
}

/// It listens as long as it is held.
#[derive(Debug)]
pub struct Collector {
    url: String,
    seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

impl Collector {
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (url, seen) = (format!("http://{}", listener.local_addr()?), Arc::new(Seen::default()));
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&seen));
        let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Self { url, seen, serving })
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn set(&self, mode: Mode) {
        self.seen.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Calls so far, whatever became of them.
    pub fn calls(&self) -> u64 {
        self.seen.calls.load(Ordering::SeqCst)
    }

    pub fn spans(&self) -> Vec<Recorded> {
        self.seen.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The headers of the last call.
    pub fn headers(&self) -> HeaderMap {
        self.seen.headers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    seen.calls.fetch_add(1, Ordering::SeqCst);
    match seen.mode.load(Ordering::SeqCst) {
        mode if mode == Mode::Refuses as u8 => return StatusCode::SERVICE_UNAVAILABLE,
        mode if mode == Mode::Hangs as u8 => std::future::pending().await,
        _ => {}
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    *seen.headers.lock().unwrap_or_else(PoisonError::into_inner) = headers;
    seen.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(recorded(request));
    StatusCode::OK
}

fn recorded(request: ExportTraceServiceRequest) -> Vec<Recorded> {
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.map(|resource| attributes(resource.attributes)).unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            let status = span.status.unwrap_or_default();
            spans.push(Recorded {
                service: resource.get("service.name").cloned().unwrap_or_default(),
                trace_id: hexadecimal(&span.trace_id),
                span_id: hexadecimal(&span.span_id),
                parent: hexadecimal(&span.parent_span_id),
                name: span.name,
                kind: span.kind,
                took_ns: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
                attributes: attributes(span.attributes),
                error: (status.code == 2).then_some(status.message),
            });
        }
    }
    spans
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |pair: KeyValue| match pair.value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => (pair.key, text),
        Some(Value::IntValue(number)) => (pair.key, number.to_string()),
        other => (pair.key, format!("{other:?}")),
    };
    pairs.into_iter().map(text).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ok = write!(text, "{byte:02x}");
        text
    })
}
