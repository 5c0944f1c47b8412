//! The statement of a funnel.
//!
//! ```text
//! events -> one sorted array of keys per person -> how far every event gets -> the best attempt -> counts and medians
//! ```
//!
//! `windowFunnel` finds the same for steps of different types with any other events between them (a test compares the two), but
//! * it lets one event be two steps;
//! * its `strict_order` gives up a person at the first event out of order, though a later attempt may succeed;
//! * its `strict_increase` overlooks an earlier start when a later one shares the millisecond of the next step;
//! * no mode returns when a step was reached or with which event the best attempt began.
//!
//! With arrays it is one pass over a person's events for each step, in the same time (2.6 s and 2.9 s for 10.5 M events).
//!
//! A key is a number that sorts like the events of a person should: `ts` in milliseconds (42 bits reach to 2109), then the
//! number of the first step that the event matches (4 bits, 15 for none), then a bit for each step that it matches (10 bits).
//!
//! `start_k` holds, at each event that can be step k, the key of the latest event that can begin such an attempt, else 0;
//! `begun_k` carries it forward. A later start leaves more time, so only the latest has to be kept.

use serde::Deserialize;
use tallyhouse_schema::dimension::OTHER;
use tallyhouse_sql::clickhouse::{self, Row};

use super::super::condition::value;
use super::{Statement, Value, holds, scope};
use crate::plan::funnel::FunnelPlan;
use crate::plan::read::Source;
use crate::request::funnel::Order;

/// Values of a breakdown that have a row of their own.
const TOP: u32 = 10;

/// Which people a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeopleOf {
    /// All of them.
    Total,
    /// Those whose attempt began with the value.
    Value,
    /// Those of all other values.
    Others,
}

/// A row of an answer.
#[derive(Debug, Clone, PartialEq, Row, Deserialize)]
pub struct Reached {
    part: u8,
    /// The value of [`PeopleOf::Value`], else empty.
    pub value: String,
    /// People who reached each step.
    pub users: Vec<u64>,
    /// The median time from the step before, in seconds; not a number where nobody came. The first step has none.
    pub took: Vec<f64>,
    /// Events that were looked at; of the total only.
    pub events: u64,
    /// Those of them that belong to nobody.
    pub without_user: u64,
    /// When the newest of them happened, in milliseconds since the epoch; 0 without any.
    pub newest_ms: u64,
}

impl Reached {
    /// Which people it is about.
    pub const fn part(&self) -> PeopleOf {
        match self.part {
            0 => PeopleOf::Total,
            1 => PeopleOf::Value,
            _ => PeopleOf::Others,
        }
    }
}

/// Bits of a key below the time, those below the first step, and what stands for no step.
const KEY: (u32, u32, u32) = (14, 10, 15);

/// The statement of a funnel.
pub fn funnel(plan: &FunnelPlan, project: &str) -> Statement {
    let mut statement = Statement::default();
    let attempts = attempts(plan, &people(plan, project, &mut statement), &mut statement);
    let steps = 1..=plan.steps.len();
    let reached = steps.clone().map(|k| format!("countIf(level >= {k})")).collect::<Vec<_>>().join(", ");
    let medians = |combinator: &str| -> Vec<String> {
        steps
            .clone()
            .skip(1)
            .map(|k| format!("quantileExactInclusive{combinator}If(0.5)(took_{k}, level >= {k})"))
            .collect()
    };
    let totals = "sum(events) AS events, sum(without_user) AS without_user, max(newest_ms) AS newest_ms";
    statement.text = if plan.breakdown.is_none() {
        let medians = medians("").join(", ");
        format!(
            "SELECT toUInt8(0) AS part, '' AS value, [{reached}] AS users, [{medians}] AS took, {totals} FROM ({attempts})"
        )
    } else {
        statement.bind("top", Value::Number(i64::from(TOP)));
        statement.bind("other", Value::Text(OTHER.to_owned()));
        let states: Vec<_> =
            medians("State").iter().zip(2..).map(|(state, k)| format!("{state} AS state_{k}")).collect();
        let merged: Vec<_> = steps.skip(1).map(|k| format!("quantileExactInclusiveMerge(0.5)(state_{k})")).collect();
        // Each group goes into the total and, when anybody began, into its own row or that of the others.
        format!(
            "SELECT part, if(part = 1, group, '') AS value, sumForEach(reached) AS users, [{}] AS took, \
             sum(events_) AS events, sum(without_user_) AS without_user, max(newest_ms_) AS newest_ms \
             FROM (SELECT *, arrayJoin(if(began, [0, if(place > {{top:Int64}} OR group = {{other:String}}, 2, 1)], [0])) AS part \
             FROM (SELECT *, row_number() OVER (ORDER BY began DESC, group = {{other:String}}, reached[1] DESC, group) AS place \
             FROM (SELECT level > 0 AS began, if(began, value, '') AS group, [{reached}] AS reached, {}, \
             sum(events) AS events_, sum(without_user) AS without_user_, max(newest_ms) AS newest_ms_ \
             FROM ({attempts}) GROUP BY began, group))) \
             GROUP BY part, value ORDER BY part, users[1] DESC, value",
            merged.join(", "),
            states.join(", "),
        )
    };
    statement
}

/// One row a person: the sorted keys, and the values of the breakdown beside them.
fn people(plan: &FunnelPlan, project: &str, statement: &mut Statement) -> String {
    let scope = scope(&plan.scan(), project, statement);
    let looked_at = holds(&plan.looked_at(), statement);
    let matches: Vec<_> = plan
        .steps
        .iter()
        .zip(1..)
        .map(|(step, k)| format!(", toUInt64({}) AS m{k}", holds(&step.condition, statement)))
        .collect();
    let value = match &plan.breakdown {
        Some(field) => format!(", if(m1 = 1, toString({}), '') AS value", value(field, &Source::Raw, statement)),
        None => String::new(),
    };
    let key = key(plan.steps.len());
    let keys = if plan.breakdown.is_some() {
        format!("arraySort(groupArrayIf(({key}, value), user_hash != 0)) AS pairs, pairs.1 AS keys, pairs.2 AS values")
    } else {
        format!("arraySort(groupArrayIf({key}, user_hash != 0)) AS keys")
    };
    format!(
        "SELECT {keys}, count() AS events, countIf(user_hash = 0) AS without_user, max(at_ms) AS newest_ms \
         FROM (SELECT user_hash, toUInt64(toUnixTimestamp64Milli(ts)) AS at_ms{}{value} FROM events FINAL \
         WHERE {scope} AND {looked_at}) GROUP BY user_hash",
        matches.join("")
    )
}

fn key(steps: usize) -> String {
    let first: Vec<_> = (1..=steps).map(|k| format!("m{k} = 1, {}", k - 1)).collect();
    let bits: Vec<_> = (1..=steps).map(|k| format!("m{k} * {}", 1_u32 << (k - 1))).collect();
    let (time_bits, step_bits, none) = KEY;
    format!(
        "bitShiftLeft(at_ms, {time_bits}) + bitShiftLeft(toUInt64(multiIf({}, {none})), {step_bits}) + {}",
        first.join(", "),
        bits.join(" + ")
    )
}

/// One row a person: how far the best attempt got, how long each step took, and the value that it began with.
fn attempts(plan: &FunnelPlan, people: &str, statement: &mut Statement) -> String {
    statement.bind("window_ms", Value::Number(plan.window_s * 1_000));
    let steps = plan.steps.len();
    // A subquery a step: where all of them are aliases of one WITH, ClickHouse writes each out wherever it is used, and plans
    // ten steps for a second, in which it does not notice a KILL.
    let walked = (1..=steps).fold(people.to_owned(), |before, k| {
        format!("SELECT *, {} FROM ({before})", progress(k, plan.order).join(", "))
    });
    let level: Vec<_> = (1..=steps).map(|k| format!("(begun_{k}[-1] > 0)")).collect();
    let took: String = (2..=steps).map(took).collect();
    let value = if plan.breakdown.is_some() { value_of_start(steps) } else { String::new() };
    format!("SELECT {} AS level{took}{value}, events, without_user, newest_ms FROM ({walked})", level.join(" + "))
}

/// At each event: how far attempts are after step `k`, from where they were after the step before.
fn progress(k: usize, order: Order) -> Vec<String> {
    let (time_bits, ..) = KEY;
    let begun = format!("arrayFill(start -> start > 0, start_{k}) AS begun_{k}");
    let before = match k {
        0 | 1 => return vec!["arrayMap(key -> if(bitTest(key, 0), key, 0), keys) AS start_1".to_owned(), begun],
        _ => k - 1,
    };
    let from = match order {
        Order::Ordered => format!("begun_{before}"),
        Order::StrictOrder => format!("start_{before}"),
    };
    vec![
        format!(
            "arrayMap((key, start) -> if(bitTest(key, {before}) AND start > 0 \
             AND bitShiftRight(key, {time_bits}) - bitShiftRight(start, {time_bits}) <= {{window_ms:Int64}}, start, 0), \
             keys, arrayShiftRight({from}, 1)) AS start_{k}"
        ),
        begun,
        format!("arrayFirstIndex(start -> start > 0, start_{k}) AS first_{k}"),
        // When the step before was last taken.
        format!(
            "arrayFill(ms -> ms > 0, arrayMap((key, start) -> if(start > 0, bitShiftRight(key, {time_bits}), 0), \
             keys, start_{before})) AS taken_{before}"
        ),
    ]
}

/// Seconds to the first event with which step `k` is reached.
fn took(k: usize) -> String {
    let (time_bits, ..) = KEY;
    format!(
        ", if(level >= {k}, toInt64(bitShiftRight(keys[first_{k}], {time_bits})) \
         - toInt64(taken_{}[first_{k} - 1]), 0) / 1000 AS took_{k}",
        k - 1
    )
}

/// The value beside the event that the best attempt began with. Who took the first step alone began with the first such event.
fn value_of_start(steps: usize) -> String {
    let starts: Vec<_> = (2..=steps).rev().map(|k| format!("level = {k}, start_{k}[first_{k}]")).collect();
    format!(", values[indexOf(keys, multiIf({}, arrayFirst(start -> start > 0, start_1)))] AS value", starts.join(", "))
}
