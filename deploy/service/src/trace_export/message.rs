//! Spans as OTLP has them.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::trace::{Attribute, EndedSpan, Kind};

/// Whose spans they are.
#[derive(Debug, Clone, Copy)]
pub struct TracedService {
    pub name: &'static str,
    pub version: &'static str,
}

pub(super) fn request(service: &TracedService, spans: Vec<EndedSpan>) -> ExportTraceServiceRequest {
    let attributes = [("service.name", service.name), ("service.version", service.version)];
    let resource = Resource {
        attributes: attributes.into_iter().map(|(name, value)| attribute(name, Attribute::from(value))).collect(),
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "tallyhouse".to_owned(),
        version: service.version.to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = spans.into_iter().map(span).collect();
    let of_scope = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![of_scope],
            ..ResourceSpans::default()
        }],
    }
}

fn span(span: EndedSpan) -> Span {
    let EndedSpan { trace, parent, kind, name, began, took, attributes, error } = span;
    let began = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (code, message) = match error {
        Some(why) => (StatusCode::Error, why.into_owned()),
        None => (StatusCode::Unset, String::new()),
    };
    Span {
        trace_id: trace.trace_id().to_bytes().to_vec(),
        span_id: trace.span_id().to_bytes().to_vec(),
        parent_span_id: parent.map(|parent| parent.to_bytes().to_vec()).unwrap_or_default(),
        flags: u32::from(trace.is_sampled()),
        name: name.into_owned(),
        kind: match kind {
            Kind::Internal => SpanKind::Internal,
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
        }
        .into(),
        start_time_unix_nano: nanos(began),
        end_time_unix_nano: nanos(began + took),
        attributes: attributes.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        status: Some(Status { message, code: code.into() }),
        ..Span::default()
    }
}

fn nanos(since_1970: Duration) -> u64 {
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(name: &str, value: Attribute) -> KeyValue {
    let value = match value {
        Attribute::Text(text) => Value::StringValue(text.into_owned()),
        Attribute::Whole(number) => Value::IntValue(number),
    };
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
