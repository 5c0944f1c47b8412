//! From a plan to SQL. Besides this module only `adhoc/statements.rs` holds SQL of the read path, for analysts and exports.
//!
//! The text of a statement consists of constants of this program. Every value from a request is a parameter that
//! ClickHouse binds by type (`{name:Type}`), so no value can become syntax. Every statement starts from one project.

mod canary;
mod condition;
mod coverage;
mod drift;
mod event_types;
pub mod funnels_retention;
mod measure;
mod newest;
mod observed;
mod ranking;
mod read;
mod report;

use serde::Serialize;

use crate::time::Grid;

pub use canary::{NewestCanary, newest_canary};
pub use coverage::{CountedDay, counted_by_quarter, counted_by_set};
pub use drift::{CountedProject, any_project_of};
pub use event_types::{EventTypeRow, SampledKind, SampledRow, event_types, listed_types, sampled_properties};
pub use newest::{Instant, newest};
pub use observed::{MOST_CHARS, MOST_PROPERTIES, MOST_VALUES, ObservedRow, observed};
pub use ranking::{Group, by_group, points};
pub use read::{MOST_ROWS, Place, Point, RAW_RANGE, overflowed, read};
pub use report::{Line, TOP, daily, realtime, section};

/// A statement and the values bound to it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statement {
    /// SQL with `{name:Type}` in it.
    pub text: String,
    /// Name and value of each.
    pub params: Vec<(String, Value)>,
}

/// A bound value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// `String`
    Text(String),
    /// `Array(String)`
    Texts(Vec<String>),
    /// `Int64`
    Number(i64),
    /// `Array(Int64)`
    Numbers(Vec<i64>),
}

impl Statement {
    fn bind(&mut self, name: impl Into<String>, value: Value) {
        self.params.push((name.into(), value));
    }
}

/// Stops a query of ours. `ASYNC`: the caller has left and waits for nothing.
/// A second attempt, which asks a part of the shards of a cluster, has the name of the first and an ending.
pub const KILL: &str = "KILL QUERY WHERE query_id IN ({query_id:String}, concat({query_id:String}, '-partial')) \
     AND user = currentUser() ASYNC";

/// Whether ClickHouse answers.
pub const PING: &str = "SELECT 1";

/// The start of the bucket of the grid that an instant lies in; `seconds` is the instant in SQL.
fn bucket(grid: &Grid, seconds: &str, statement: &mut Statement) -> String {
    match grid {
        Grid::Even { origin, width, .. } => {
            statement.bind("origin", Value::Number(*origin));
            statement.bind("width", Value::Number(*width));
            format!("intDiv({seconds} - {{origin:Int64}}, {{width:Int64}}) * {{width:Int64}} + {{origin:Int64}}")
        }
        Grid::Uneven(edges) => {
            statement.bind("edges", Value::Numbers(edges.clone()));
            format!("roundDown({seconds}, {{edges:Array(Int64)}})")
        }
    }
}
