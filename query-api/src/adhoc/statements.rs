//! The SQL of exports. Analysts write their own.

use super::export::{ExportAsk, Format};
use crate::sql::{RAW_RANGE, Statement, Value};

/// Settings of every export, beside those of its format. A slow client holds ClickHouse back, so an export may take longer
/// than a query; how long it may stand still is for the stream to say.
pub const EXPORT_SETTINGS: [(&str, &str); 6] = [
    ("max_execution_time", "600"),
    ("max_result_rows", "100000000"),
    ("max_result_bytes", "100000000000"),
    ("result_overflow_mode", "throw"),
    ("cancel_http_readonly_queries_on_client_close", "1"),
    ("date_time_output_format", "iso"),
];

/// Settings of a format.
pub fn format_settings(format: Format) -> &'static [(&'static str, &'static str)] {
    match format {
        Format::Json | Format::Ndjson => &[("output_format_json_quote_denormals", "0")],
        Format::Csv => &[("format_csv_null_representation", "")],
        Format::Parquet => &[("output_format_parquet_string_as_string", "1")],
    }
}

/// The statement of an export. Times are UTC, and local only once they are here ([`super::local_times`] relies on which
/// columns they are). `FINAL`: an event is given once, whatever copies of it wait to be merged away.
pub fn export(ask: &ExportAsk, project: &str) -> Statement {
    let mut params = vec![
        ("project".to_owned(), Value::Text(project.to_owned())),
        ("from".to_owned(), Value::Number(ask.from_s)),
        ("to".to_owned(), Value::Number(ask.to_s)),
    ];
    let map = |column: &str| match ask.format {
        Format::Csv => format!("toJSONString(t.{column}) AS {column}"),
        Format::Json | Format::Ndjson | Format::Parquet => format!("t.{column} AS {column}"),
    };
    let (props, num_props) = (map("props"), map("num_props"));
    let of_type = match &ask.event_type {
        Some(event_type) => {
            params.push(("event_type".to_owned(), Value::Text(event_type.clone())));
            " AND t.event_type = {event_type:String}"
        }
        None => "",
    };
    let text = format!(
        "SELECT t.event_id AS event_id, toString(t.event_type) AS event_type, t.ts AS ts, t.value AS value, t.user_id AS user_id, \
         t.anonymous_id AS anonymous_id, t.session_id AS session_id, toString(t.country) AS country, \
         toString(t.device) AS device, toString(t.os) AS os, toString(t.browser) AS browser, toString(t.locale) AS locale, \
         t.page AS page, t.ip AS ip, {props}, {num_props}, t.original_ts AS original_ts, \
         t.received_at AS received_at \
         FROM events AS t FINAL WHERE t.project_id = {{project:String}} AND {RAW_RANGE}{of_type}"
    );
    Statement { text, params }
}
