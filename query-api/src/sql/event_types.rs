//! The statements of a project's event types and of their properties.

use serde::Deserialize;
use tallyhouse_schema::Rollup;
use tallyhouse_sql::clickhouse::{self, Row};

use super::read::RAW_RANGE;
use super::{Statement, Value};
use crate::plan::event_types::{EventTypesPlan, SAMPLED_TYPES};

/// Properties of a type that are told: those in most events.
const MOST_PROPERTIES: i64 = 200;

/// A type of event and how much there is of it.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct EventTypeRow {
    /// As events have it in `eventType`.
    pub event_type: String,
    /// Events of the type in all rows that were read.
    pub events: u64,
    /// Start of its first day (in a list of a range, its first hour), in seconds.
    pub first_day: i64,
    /// Start of its newest day or hour, in seconds.
    pub newest_day: i64,
}

/// The types with most events, at most so many. The empty type stands for every type together.
pub fn event_types(project: &str, most: usize) -> Statement {
    let mut statement = Statement::default();
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("most", Value::Number(i64::try_from(most).unwrap_or(i64::MAX)));
    statement.text = format!(
        "SELECT toString(t.event_type) AS event_type, sum(t.events) AS events, toInt64(min(t.bucket)) AS first_day, \
         toInt64(max(t.bucket)) AS newest_day FROM {} AS t \
         WHERE project_id = {{project:String}} AND dim_set = '' AND t.event_type != '' \
         GROUP BY event_type ORDER BY events DESC, event_type LIMIT {{most:Int64}} SETTINGS max_threads = 1",
        Rollup::Day.table()
    );
    statement
}

/// The types of a range with most events, one more than asked for. First and newest are hours here.
pub fn listed_types(plan: &EventTypesPlan, project: &str) -> Statement {
    let mut statement = Statement::default();
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("from", Value::Number(plan.from));
    statement.bind("to", Value::Number(plan.to));
    statement.bind("most", Value::Number(i64::from(plan.limit) + 1));
    let which = match &plan.event_type {
        Some(name) => {
            statement.bind("type", Value::Text(name.clone()));
            "t.event_type = {type:String}"
        }
        None => "t.event_type != ''",
    };
    statement.text = format!(
        "SELECT toString(t.event_type) AS event_type, sum(t.events) AS events, toInt64(min(t.bucket)) AS first_day, \
         toInt64(max(t.bucket)) AS newest_day FROM {} AS t \
         WHERE project_id = {{project:String}} AND dim_set = '' AND {which} \
         AND t.bucket >= toDateTime({{from:Int64}}, 'UTC') AND t.bucket < toDateTime({{to:Int64}}, 'UTC') \
         GROUP BY event_type ORDER BY events DESC, event_type LIMIT {{most:Int64}} SETTINGS max_threads = 1",
        Rollup::Hour.table()
    );
    statement
}

/// In how many of the events that were looked at a property is, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct SampledRow {
    /// Place of the type among those that were listed, from 0.
    pub place: u32,
    /// What is counted, as in [`SampledKind`].
    pub kind: u8,
    /// The property; empty for the events themselves.
    pub name: String,
    /// Events of the sample that have the property.
    pub events: u64,
}

/// What a [`SampledRow`] counts.
#[derive(Debug, Clone, Copy)]
pub struct SampledKind;

impl SampledKind {
    /// Events in which the property is a text.
    pub const TEXT: u8 = 0;
    /// Events in which the property is a number.
    pub const NUMBER: u8 = 1;
    /// All events that were looked at.
    pub const EVENT: u8 = 2;
}

/// The properties of the types of a list: of each the first events of its newest day, no more of them than `plan.sampled`. The key
/// leads to them, so what is read is a few granules a type, however many events there are. `None` when there is no type.
pub fn sampled_properties(plan: &EventTypesPlan, types: &[EventTypeRow], project: &str) -> Option<Statement> {
    const NEWEST_S: i64 = 23 * 3_600;
    let mut statement = Statement::default();
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("to", Value::Number(plan.to));
    statement.bind("sampled", Value::Number(i64::from(plan.sampled)));
    statement.bind("most", Value::Number(MOST_PROPERTIES + 1));
    let of_type = |(place, row): (usize, &EventTypeRow)| {
        statement.bind(format!("type_{place}"), Value::Text(row.event_type.clone()));
        statement.bind(format!("from_{place}"), Value::Number(plan.from.max(row.newest_day - NEWEST_S)));
        let range = RAW_RANGE.replace("{from:", &format!("{{from_{place}:"));
        format!(
            "(SELECT toUInt32({place}) AS place, mapKeys(props) AS texts, mapKeys(num_props) AS numbers FROM events \
             WHERE project_id = {{project:String}} AND event_type = {{type_{place}:String}} AND {range} \
             LIMIT {{sampled:Int64}})"
        )
    };
    let samples: Vec<String> = types.iter().take(SAMPLED_TYPES).enumerate().map(of_type).collect();
    if samples.is_empty() {
        return None;
    }
    let (text, number, event) = (SampledKind::TEXT, SampledKind::NUMBER, SampledKind::EVENT);
    statement.text = format!(
        "SELECT place, toUInt8(found.1) AS kind, toString(found.2) AS name, count() AS events FROM (SELECT place, \
         arrayJoin(arrayConcat([({event}, '')], arrayMap(name -> ({text}, toString(name)), texts), \
         arrayMap(name -> ({number}, toString(name)), numbers))) AS found FROM ({})) \
         GROUP BY place, kind, name ORDER BY place, kind = {event} DESC, events DESC, name, kind \
         LIMIT {{most:Int64}} BY place SETTINGS max_threads = 1",
        samples.join(" UNION ALL ")
    );
    Some(statement)
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::Catalogue;

    use super::*;
    use crate::request::Params;
    use crate::request::event_types::{EVENT_TYPES_PARAMS, EventTypesQuery};

    const NOW: i64 = 1_795_178_096_789;

    #[test]
    fn nothing_from_a_request_or_a_table_is_in_the_text_and_every_parameter_is_used() {
        let params = Params::parse(Some("eventType=x'+OR+1"), EVENT_TYPES_PARAMS).unwrap();
        let query = EventTypesQuery::parse(&params, NOW).unwrap();
        let plan = crate::plan::event_types::plan(&query, &Catalogue::default(), NOW).unwrap();
        let row = EventTypeRow { event_type: "x' OR 1".to_owned(), events: 1, first_day: 0, newest_day: 0 };
        let sampled = sampled_properties(&plan, &vec![row; SAMPLED_TYPES + 1], "p'1").unwrap();
        for statement in [listed_types(&plan, "p'1"), sampled] {
            assert!(!statement.text.contains("OR 1") && !statement.text.contains("p'1"), "{}", statement.text);
            for (name, _) in &statement.params {
                assert!(statement.text.contains(&format!("{{{name}:")), "{name} is not used");
            }
        }
        assert_eq!(sampled_properties(&plan, &[], "p"), None);
    }
}
