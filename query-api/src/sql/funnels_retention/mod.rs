//! The statements of funnels and retention: raw events, grouped by person.

mod funnel;
mod retention;

use serde::Deserialize;
use tallyhouse_sql::clickhouse::{self, Row};

use super::condition::condition;
use super::read::RAW_RANGE;
use super::{Statement, Value};
use crate::condition::Condition;
use crate::plan::read::Source;
use crate::plan::scan::Scan;

pub use funnel::{PeopleOf, Reached, funnel};
pub use retention::{Cell, NOBODY, retention};

/// How many events a question would read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct Size {
    /// Events, before filters; those that were stored twice count twice.
    pub events: u64,
}

/// The statement of how many events a question would read: by the table's key alone, so it costs little.
pub fn size(scan: &Scan, project: &str) -> Statement {
    let mut statement = Statement::default();
    let rows = scope(scan, project, &mut statement);
    statement.text = format!("SELECT count() AS events FROM events WHERE {rows}");
    statement
}

/// Project, range and event types: what the table's key narrows down to.
fn scope(scan: &Scan, project: &str, statement: &mut Statement) -> String {
    statement.bind("project", Value::Text(project.to_owned()));
    statement.bind("from", Value::Number(scan.from));
    statement.bind("to", Value::Number(scan.to));
    let rows = format!("project_id = {{project:String}} AND {RAW_RANGE}");
    let Some(types) = &scan.types else { return rows };
    statement.bind("types", Value::Texts(types.clone()));
    format!("{rows} AND event_type IN {{types:Array(String)}}")
}

/// `tree` as a condition on a raw event.
fn holds(tree: &Condition, statement: &mut Statement) -> String {
    condition(tree, &Source::Raw, statement)
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::Catalogue;

    use super::*;
    use crate::plan::{Plan, plan};
    use crate::request::Query;
    use crate::request::body::{self, JsonPart};

    fn statements(text: &str) -> Vec<Statement> {
        let value = body::parse(text.as_bytes()).unwrap();
        let query = Query::of_kind(&JsonPart::root(&value), 1_795_178_096_789).unwrap();
        match plan(&query, &Catalogue::default(), 1_795_178_096_789).unwrap() {
            Plan::Funnel(plan) => vec![size(&plan.scan(), "p'1"), funnel(&plan, "p'1")],
            Plan::Retention(plan) => vec![size(&plan.scan(), "p'1"), retention(&plan, "p'1")],
            other => panic!("{other:?}"),
        }
    }

    /// Every text that a caller can choose is `x`, but for names of dimensions: those are checked when they are read.
    fn funnel_of(x: &str, order: &str) -> String {
        let filter = format!(r#"["contains","prop",["{x}"]]"#);
        format!(
            r#"{{"kind":"funnel","steps":[{{"event_type":"{x}","name":"{x}","filters":[{filter}]}},
                {{"event_type":"b"}}],"date_range":"7d","timezone":"Asia/Kolkata","window":"3h","order":"{order}",
                "breakdown":"country","filters":[["is","{x}",["{x}"]]]}}"#
        )
    }

    fn retention_of(x: &str, unit: &str) -> String {
        format!(
            r#"{{"kind":"retention","cohort":{{"event_type":"{x}"}},"return":{{"filters":[["is_not","{x}",["{x}"]]]}},
                "date_range":"30d","timezone":"Europe/Berlin","unit":"{unit}","periods":3}}"#
        )
    }

    #[test]
    fn nothing_from_a_request_is_in_the_text() {
        let hostile = "x' OR 1=1) -- {project:String}";
        let pairs = [
            (funnel_of("a", "ordered"), funnel_of(hostile, "ordered")),
            (funnel_of("a", "strict_order"), funnel_of(hostile, "strict_order")),
            (retention_of("a", "day"), retention_of(hostile, "day")),
            (retention_of("a", "week"), retention_of(hostile, "week")),
        ];
        for (plain, bad) in pairs {
            for (plain, bad) in statements(&plain).iter().zip(statements(&bad)) {
                assert_eq!(plain.text, bad.text);
                assert!(!bad.text.contains("OR 1=1") && !bad.text.contains("p'1"));
            }
            let whole = statements(&bad).pop().unwrap();
            assert!(whole.params.iter().any(|(_, value)| *value == Value::Texts(vec![hostile.to_owned()])));
        }
    }

    #[test]
    fn every_parameter_in_the_text_is_bound_once() {
        let bodies = [
            funnel_of("a", "ordered"),
            funnel_of("a", "strict_order"),
            funnel_of("a", "ordered").replace(r#""breakdown":"country","#, ""),
            retention_of("a", "day"),
            retention_of("a", "week").replace("Europe/Berlin", "UTC"),
        ];
        for statement in bodies.iter().flat_map(|text| statements(text)) {
            let mut bound: Vec<&str> = statement.params.iter().map(|(name, _)| name.as_str()).collect();
            bound.sort_unstable();
            let used: std::collections::BTreeSet<&str> =
                statement.text.split('{').skip(1).filter_map(|rest| rest.split(':').next()).collect();
            assert_eq!(bound, used.into_iter().collect::<Vec<_>>(), "{}", statement.text);
        }
    }
}
