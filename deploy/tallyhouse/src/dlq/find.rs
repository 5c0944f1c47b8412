//! Finds dead letters by filters.

use clap::Args;
use serde::Deserialize;
use tallyhouse_ingest::dead_letters::{DeadLetter, DeadLetterState, Kind, Origin};
use tallyhouse_schema::project::ProjectName;
use tallyhouse_schema::time;
use tallyhouse_sql::clickhouse::{self, Row};
use tallyhouse_sql::{Connection, StoreError, unhex};

/// Which dead letters. All conditions must hold.
#[derive(Debug, Clone, Default, Args)]
pub struct Filters {
    /// Of this project
    #[arg(long)]
    pub project: Option<ProjectName>,
    /// Refused for this reason, such as `too_old`
    #[arg(long)]
    pub code: Option<String>,
    /// Failed at this time or later (RFC 3339, or milliseconds since 1970)
    #[arg(long)]
    pub since: Option<String>,
    /// Failed before this time
    #[arg(long)]
    pub until: Option<String>,
    /// With this event id
    #[arg(long)]
    pub event_id: Option<String>,
    /// This one
    #[arg(long)]
    pub id: Option<String>,
    /// `open`, `replayed`, `discarded` or `all`
    #[arg(long, default_value = "open", value_parser = ["open", "replayed", "discarded", "all"])]
    pub state: String,
    /// At most so many, the oldest first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// A filter that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{option}: `{value}` is neither an RFC 3339 time nor a number of milliseconds since 1970")]
pub struct BadFilter {
    option: &'static str,
    value: String,
}

#[derive(Row, Deserialize)]
struct DeadLetterRow {
    project_id: String,
    id: String,
    kind: String,
    code: String,
    reason: String,
    /// Hexadecimal: a text that need not be UTF-8.
    payload: String,
    event_id: String,
    source_topic: String,
    source_partition: i32,
    source_offset: i64,
    key_id: String,
    received_at: i64,
    failed_at: i64,
    state: String,
    updated_at: i64,
}

impl From<DeadLetterRow> for DeadLetter {
    fn from(row: DeadLetterRow) -> Self {
        Self {
            project: row.project_id,
            id: row.id,
            kind: if row.kind == Kind::Json.label() { Kind::Json } else { Kind::Record },
            code: row.code,
            reason: row.reason,
            payload: unhex(&row.payload).unwrap_or_default(),
            event_id: row.event_id,
            origin: Origin {
                topic: row.source_topic,
                partition: row.source_partition,
                offset: row.source_offset,
                key_id: row.key_id,
            },
            received_at: row.received_at,
            failed_at: row.failed_at,
            state: match row.state.as_str() {
                "replayed" => DeadLetterState::Replayed,
                "discarded" => DeadLetterState::Discarded,
                _ => DeadLetterState::Open,
            },
            updated_at: row.updated_at,
        }
    }
}

impl Filters {
    /// The conditions, and the values that are bound to them.
    fn conditions(&self) -> Result<Vec<(&'static str, &'static str, Value)>, BadFilter> {
        let text = |value: &Option<String>| value.clone().map(Value::Text);
        let at = |option, value: &Option<String>| {
            value.as_deref().map(|value| instant(option, value).map(Value::Number)).transpose()
        };
        let state = (self.state != "all").then(|| Value::Text(self.state.clone()));
        let all = [
            ("project", "project_id = {project:String}", text(&self.project.clone().map(String::from))),
            ("code", "code = {code:String}", text(&self.code)),
            ("since", "failed_at >= fromUnixTimestamp64Milli({since:Int64})", at("since", &self.since)?),
            ("until", "failed_at < fromUnixTimestamp64Milli({until:Int64})", at("until", &self.until)?),
            ("event_id", "event_id = {event_id:String}", text(&self.event_id)),
            ("id", "id = {id:String}", text(&self.id)),
            ("state", "state = {state:String}", state),
        ];
        Ok(all.into_iter().filter_map(|(name, sql, value)| Some((name, sql, value?))).collect())
    }
}

enum Value {
    Text(String),
    Number(i64),
}

fn instant(option: &'static str, value: &str) -> Result<i64, BadFilter> {
    time::parse(value).map(|instant| instant.ms).map_err(|_| BadFilter { option, value: value.to_owned() })
}

/// The dead letters that match, the oldest first.
pub async fn find(
    connection: &Connection,
    filters: &Filters,
) -> Result<Result<Vec<DeadLetter>, StoreError>, BadFilter> {
    let conditions = filters.conditions()?;
    let mut sql = "SELECT toString(project_id) AS project_id, id, toString(kind) AS kind, toString(code) AS code, reason, \
        hex(payload) AS payload, event_id, \
        toString(source_topic) AS source_topic, source_partition, source_offset, toString(key_id) AS key_id, \
        toUnixTimestamp64Milli(l.received_at) AS received_at, toUnixTimestamp64Milli(l.failed_at) AS failed_at, \
        toString(state) AS state, toUnixTimestamp64Milli(l.updated_at) AS updated_at FROM (SELECT * FROM dead_letters FINAL) AS l \
        WHERE 1"
        .to_owned();
    for (_, condition, _) in &conditions {
        sql.push_str(" AND l.");
        sql.push_str(condition);
    }
    sql.push_str(" ORDER BY l.failed_at, l.id LIMIT {most:UInt32}");
    let client = connection.client();
    let query = conditions.into_iter().fold(client.query(&sql), |query, (name, _, value)| match value {
        Value::Text(text) => query.param(name, text),
        Value::Number(number) => query.param(name, number),
    });
    let rows = query.param("most", filters.limit).fetch_all::<DeadLetterRow>().await;
    Ok(rows.map(|rows| rows.into_iter().map(DeadLetter::from).collect()).map_err(StoreError::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_or_refused_with_the_options_name() {
        assert_eq!(instant("since", "1970-01-01T00:00:01Z"), Ok(1_000));
        assert_eq!(instant("since", "1767225600000"), Ok(1_767_225_600_000));
        assert!(instant("until", "yesterday").unwrap_err().to_string().starts_with("--until: `yesterday`"));
    }
}
