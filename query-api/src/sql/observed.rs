//! The statement of observed schemas: what a sample of the stored events of a type holds under each property.

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Row};

use super::{Statement, Value};

/// Events that are looked at of one day. Days are looked at one by one, so that a sample is not all of one hour.
const SAMPLED_A_DAY: i64 = 2_000;

/// Days that are looked at, the last one first.
const DAYS: i64 = 7;

/// Properties that are told: those in most events.
pub const MOST_PROPERTIES: usize = 200;

/// Different values of a property that are told; with more of them it is no enumeration.
pub const MOST_VALUES: usize = 12;

/// Characters of a value that are told.
pub const MOST_CHARS: usize = 100;

/// What a property is in a sample, as texts and as numbers.
#[derive(Debug, Clone, PartialEq, Row, Deserialize)]
pub struct ObservedRow {
    /// 0: texts, 1: numbers, 2: the events themselves.
    pub kind: u8,
    pub name: String,
    /// Events that have it so.
    pub events: u64,
    /// The smallest number, or the length of the shortest text.
    pub least: f64,
    pub most: f64,
    /// Numbers without a fraction, and texts of nothing but digits and a sign.
    pub whole: u64,
    /// Texts that are `true` or `false`: booleans are kept so.
    pub booleans: u64,
    /// Texts that begin as arrays are kept.
    pub arrays: u64,
    pub times: u64,
    pub dates: u64,
    pub uuids: u64,
    /// Texts that are plain decimal numbers.
    pub decimals: u64,
    /// Texts that may have been numbers: those that a double does not hold are kept as text.
    pub long_numbers: u64,
    /// One more than [`MOST_VALUES`] at most, each cut to [`MOST_CHARS`].
    pub values: Vec<String>,
}

/// Looks at the events of the days before `to`, which is in seconds.
pub fn observed(project: &str, event_type: &str, to: i64) -> Statement {
    const DAY: i64 = 86_400;
    let mut statement = Statement::default();
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("type", Value::Text(event_type.to_owned()));
    statement.bind("sampled", Value::Number(SAMPLED_A_DAY));
    statement.bind("most", Value::Number(MOST_PROPERTIES as i64 + 1));
    let of_day = |day: i64| {
        statement.bind(format!("from_{day}"), Value::Number(to - (day + 1) * DAY));
        statement.bind(format!("to_{day}"), Value::Number(to - day * DAY));
        let range =
            super::RAW_RANGE.replace("{from:", &format!("{{from_{day}:")).replace("{to:", &format!("{{to_{day}:"));
        format!(
            "(SELECT props, num_props FROM events WHERE project_id = {{project:String}} AND event_type = {{type:String}} AND {range} \
             LIMIT {{sampled:Int64}})"
        )
    };
    let days: Vec<String> = (0..DAYS).map(of_day).collect();
    // Without a question mark: the client takes it for a value to be bound.
    statement.text = format!(
        "SELECT kind, name, count() AS events, min(size) AS least, max(size) AS most, countIf(if(kind = 1, size = floor(size), match(text, '^[+-]{{0,1}}[0-9]+$'))) AS whole, \
         countIf(kind = 0 AND text IN ('true', 'false')) AS booleans, countIf(startsWith(text, '[')) AS arrays, \
         countIf(is_day AND match(substring(text, 11), '^[Tt]([01][0-9]|2[0-3])(:[0-5][0-9]){{2}}(\\.[0-9]{{1,9}}){{0,1}}([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$')) AS times, \
         countIf(is_day AND length(text) = 10) AS dates, \
         countIf(match(text, '^[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}$')) AS uuids, \
         countIf(match(text, '^[+-]{{0,1}}([0-9]+[.]{{0,1}}[0-9]*|[.][0-9]+)$')) AS decimals, \
         countIf(match(text, '^-{{0,1}}[0-9]+([.][0-9]+){{0,1}}([eE][+-]{{0,1}}[0-9]+){{0,1}}$') AND (length(text) > 15 OR match(text, '[eE]'))) AS long_numbers, \
         groupUniqArrayIf({})(substringUTF8(text, 1, {MOST_CHARS}), kind = 0) AS values FROM (SELECT toUInt8(found.1) AS kind, \
         toString(found.2) AS name, found.3 AS text, if(kind = 0, toFloat64(lengthUTF8(text)), found.4) AS size, \
         toString(toDate32OrNull(substring(text, 1, 10))) = substring(text, 1, 10) AS is_day \
         FROM (SELECT arrayJoin(arrayConcat([(2, '', '', 0.)], \
         arrayMap((k, v) -> (0, toString(k), v, 0.), mapKeys(props), mapValues(props)), \
         arrayMap((k, v) -> (1, toString(k), '', v), mapKeys(num_props), mapValues(num_props)))) AS found \
         FROM ({}))) GROUP BY kind, name ORDER BY kind = 2 DESC, events DESC, name, kind LIMIT {{most:Int64}} SETTINGS max_threads = 1",
        MOST_VALUES + 1,
        days.join(" UNION ALL ")
    );
    statement
}
