//! The form of a log line: one JSON object, with what every line has outside and what one line says in `fields`.
//!
//! ```json
//! {"timestamp":"2026-11-28T20:51:07.123456Z","level":"WARN","service":"ingest","trace_id":"…","span_id":"…","message":"…","fields":{"target":"…", …}}
//! ```
//!
//! `trace_id` and `span_id` are there while a request is answered ([`crate::trace`]), in work that is not handed to another task.

use std::fmt::{self, Debug};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::trace;

/// Of the lines of a service.
pub(crate) struct Form {
    pub(crate) service: &'static str,
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        let mut said = Said::default();
        event.record(&mut said);
        said.fields.insert("target".to_owned(), about.target().into());
        let now = Timestamp::now();
        write!(writer, r#"{{"timestamp":"{now:.6}","level":"{}","service":"{}""#, about.level(), self.service)?;
        if let Some(trace) = trace::current() {
            write!(writer, r#","trace_id":"{}","span_id":"{}""#, trace.trace_id(), trace.span_id())?;
        }
        writeln!(writer, r#","message":{},"fields":{}}}"#, Value::String(said.message), Value::Object(said.fields))
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Map<String, Value>,
}

impl Said {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for Said {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.add(field, value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::{fmt, registry};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> Vec<Value> {
        let buffer = Buffer::default();
        let written = buffer.clone();
        let lines = fmt::layer().event_format(Form { service: "ingest" }).with_writer(move || written.clone());
        tracing::subscriber::with_default(registry().with(lines), log);
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    #[test]
    fn a_line_has_the_form_that_is_documented() {
        let lines = logged(|| tracing::warn!(rows = 7, is_late = true, share = 0.5, error = %"a \"b\"\n", "it failed"));
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let names: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(names, ["fields", "level", "message", "service", "timestamp"]);
        assert_eq!(
            (&line["level"], &line["service"], &line["message"]),
            (&json!("WARN"), &json!("ingest"), &json!("it failed"))
        );
        let target = "tallyhouse_service::telemetry::form::tests";
        assert_eq!(
            line["fields"],
            json!({"rows": 7, "is_late": true, "share": 0.5, "error": "a \"b\"\n", "target": target})
        );
        let at: Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
        assert!(Timestamp::now().duration_since(at).as_secs() < 60);
    }

    #[tokio::test]
    async fn a_request_names_its_trace_on_each_line() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = trace::Trace::below(trace::Trace::read(given));
        let lines = trace.scope(async { logged(|| tracing::info!("within")) }).await;
        assert_eq!(lines[0]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(lines[0]["span_id"], trace.span_id().to_string());
        assert_ne!(lines[0]["span_id"], "b7ad6b7169203331", "a span of its own");
        assert!(logged(|| tracing::info!("outside"))[0].get("trace_id").is_none());
    }
}
