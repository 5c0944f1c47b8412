//! Executes a plan: reads what it says, and renders the result.
//!
//! ```text
//! Read -> chunks -> cached at the stamp of their days
//!                -> in flight in another query: waited for
//!                -> the others, neighbours in one statement -> published, cached -> joined, in order
//! ```
//!
//! The stamp is taken before anything is read: a change meanwhile belongs to the next stamp, and the part is not found
//! again. A part that cannot be decoded counts as missing.
//!
//! Points are counted as they come, cached or read: once an answer holds more of them than it may (`budget.rs`), nothing
//! else is read for it.

mod age;
mod budget;
mod chunked;
mod newest;
mod overflow;
mod sums;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tallyhouse_sql::clickhouse::{RowOwned, RowRead};
use tokio::time::Instant;

use crate::anomalies;
use crate::authorize::Scope;
use crate::cache::parts::Reach;
use crate::cache::{Parts, RedisTimeBudget, Rendered, Versions};
use crate::event_types;
use crate::funnels_retention;
use crate::plan::read::Read;
use crate::plan::structured::{StructuredPlan, only};
use crate::plan::{OneSeries, Plan, SeriesPlan};
use crate::render;
use crate::render::meta::LookedUp;
use crate::render::structured::{Others, PlanPoints};
use crate::render::table::Greatest;
use crate::request::structured::Form;
use crate::sql::{self, Line, MOST_ROWS, Point, Statement, section};
use crate::store::{AdmissionRequest, Class, Cost, ReadError, Store};
use age::Age;
use budget::Budget;

/// An answer of one query is ended by the query's own deadline, which the breaker hears of; this much later, whatever an
/// answer of several is still reading is stopped.
const GRACE: Duration = Duration::from_millis(250);

/// What answers are computed from.
pub struct Sources {
    pub store: Store,
    /// Cached chunks.
    pub parts: Parts,
    /// The versions of the days that they were read from.
    pub versions: Versions,
    /// How long an answer waits for the look-ups of what is only said beside it.
    pub look_up: Duration,
}

/// When a plan is carried out, and how.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub now_ms: i64,
    /// What of it may be remembered.
    pub recall: Recall,
    /// Who waits for it.
    pub class: Class,
    /// Until when: no statement of it, and no wait, goes on beyond.
    pub deadline: Instant,
}

/// Which chunks may be taken from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// All that are known.
    All,
    /// Those that are over, and what still changes if it was read since this instant, in milliseconds since the epoch. It is
    /// remembered in this process alone.
    Since(i64),
    /// None: everything is read anew.
    Nothing,
}

impl Recall {
    /// Whether a chunk may be taken that was read then.
    const fn allows(self, is_closed: bool, read_ms: i64) -> bool {
        match self {
            Self::All => true,
            Self::Since(oldest_ms) => is_closed || read_ms >= oldest_ms,
            Self::Nothing => false,
        }
    }

    /// Whether a chunk may be taken that somebody else reads just now.
    const fn allows_in_flight(self) -> bool {
        match self {
            Self::All | Self::Since(_) => true,
            Self::Nothing => false,
        }
    }

    /// Who else is given what is read of a chunk.
    const fn reach(self, is_closed: bool) -> Reach {
        match self {
            // Each second another: not worth writing down.
            Self::Since(_) if !is_closed => Reach::Process,
            Self::All | Self::Since(_) | Self::Nothing => Reach::Fleet,
        }
    }
}

/// A plan being carried out.
pub struct Execution {
    sources: Arc<Sources>,
    scope: Scope,
    moment: Moment,
    ask: AdmissionRequest,
    /// When its time is over. What is only said beside the answer is not waited for beyond it.
    ends: Instant,
    /// What may be waited for Redis.
    redis_time: RedisTimeBudget,
    /// How old that is which was not read now.
    age: Age,
    /// What was read so far.
    cost: Cost,
    /// What may still be held.
    budget: Budget,
}

impl Sources {
    /// The beginning of carrying out a plan for a caller who waits so long for Redis.
    pub fn execution(self: &Arc<Self>, scope: &Scope, moment: Moment, redis_time: RedisTimeBudget) -> Execution {
        let (class, ends) = (moment.class, moment.deadline);
        let ask = AdmissionRequest { class, project: scope.project().to_owned(), deadline: Some(ends) };
        let (sources, scope, age) = (Arc::clone(self), scope.clone(), Age::of(moment.now_ms));
        Execution { sources, scope, moment, ask, ends, redis_time, age, cost: Cost::default(), budget: Budget::whole() }
    }
}

impl Execution {
    /// Reads and renders a plan, until its deadline: whatever is still being read then is stopped.
    pub async fn run(mut self, plan: &Plan) -> Result<Rendered, ReadError> {
        let end = self.ends + GRACE;
        let rendered = tokio::time::timeout_at(end, self.rendered(plan)).await.map_err(|_| ReadError::TimedOut)??;
        let Age { oldest_ms, seen_ms } = self.age;
        Ok(Rendered { oldest_ms: Some(oldest_ms), seen_ms: Some(seen_ms), ..render::with_cost(rendered, &self.cost) })
    }

    /// What was computed elsewhere, its cost counted.
    fn with_cost_of(&mut self, (rendered, cost): (Rendered, Cost)) -> Rendered {
        self.cost += cost;
        rendered
    }

    async fn rendered(&mut self, plan: &Plan) -> Result<Rendered, ReadError> {
        let generated_s = self.moment.now_ms.div_euclid(1_000);
        Ok(match plan {
            Plan::Series(plan) => {
                let read = plan.read();
                let points = self.points(&read).await?;
                let others = self.others_of(plan, &read, &points).await?;
                let looked_up = self.beside(&read, &points).await?;
                render::series::render(plan, &points, &others, looked_up, self.age.seen_s())
            }
            Plan::Anomalies(plan) => {
                let read = match &plan.series {
                    OneSeries::BuiltIn(series) => {
                        let read = series.read();
                        let points = self.points(&read).await?;
                        let looked_up = self.beside(&read, &points).await?;
                        anomalies::Read::BuiltIn { plan: series.clone(), points, looked_up }
                    }
                    OneSeries::Registered(series) => anomalies::Read::Registered {
                        plan: series.clone(),
                        found: Box::new(self.structured(series).await?),
                    },
                };
                anomalies::judge(plan.clone(), read, self.age.seen_ms).await?
            }
            Plan::Funnel(plan) => {
                let computed = funnels_retention::funnel(&self.sources.store, &self.ask, plan, generated_s).await?;
                self.with_cost_of(computed)
            }
            Plan::Retention(plan) => {
                let computed = funnels_retention::retention(&self.sources.store, &self.ask, plan, generated_s).await?;
                self.with_cost_of(computed)
            }
            Plan::Realtime(plan) => {
                let lines: Vec<Line> = self.ask(&sql::realtime(plan, self.scope.project())).await?;
                let newest = self.newest_of(&plan.read(), newest_line(&lines, plan.long_from)).await;
                render::report::realtime(plan, &lines, newest, generated_s)
            }
            Plan::Daily(plan) => {
                let lines: Vec<Line> = self.ask(&sql::daily(plan, self.scope.project())).await?;
                let newest = self.newest_of(&plan.read(), newest_line(&lines, plan.from)).await;
                render::report::daily(plan, &lines, newest, generated_s)
            }
            Plan::EventTypes(plan) => {
                let types: Vec<sql::EventTypeRow> = self.ask(&sql::listed_types(plan, self.scope.project())).await?;
                let listed = types.get(..plan.limit as usize).unwrap_or(&types);
                let sampled = match sql::sampled_properties(plan, listed, self.scope.project()) {
                    _ if plan.sampled == 0 => None,
                    Some(statement) => Some(self.ask(&statement).await?),
                    None => Some(Vec::new()),
                };
                let newest = types.iter().map(|row| row.newest_day).max();
                let newest = self.newest_of(&plan.read(types.len()), newest).await;
                event_types::render::render(
                    plan,
                    &event_types::render::EventTypeRows { types, sampled, newest },
                    generated_s,
                )
            }
            Plan::Structured(plan) => {
                let found = self.structured(plan).await?;
                render::structured::render(plan, &found, self.age.seen_s())
            }
        })
    }

    async fn structured(&mut self, plan: &StructuredPlan) -> Result<PlanPoints, ReadError> {
        let all_groups = self.all(&plan.ranking).await?;
        let greatest = match plan.shape.form {
            Form::Series(most) if !plan.ranking.is_empty() => Some(Greatest::of(plan, &all_groups, most as usize)),
            Form::Series(_) | Form::Table => None,
        };
        let reads = match &greatest {
            Some(Greatest { groups, .. }) => plan.period.reads.iter().map(|read| only(read, groups)).collect(),
            None => plan.period.reads.clone(),
        };
        let mut found = PlanPoints {
            greatest,
            reads: self.all(&reads).await?,
            totals: self.all(&plan.period.totals).await?,
            ..PlanPoints::default()
        };
        if let Some(previous) = &plan.previous {
            found.previous = self.all(&previous.reads).await?;
            found.previous_totals = self.all(&previous.totals).await?;
            if let Some(running) = &previous.running {
                found.previous_running = self.all(&running.reads).await?;
            }
        }
        found.others = self.others(plan, &found).await?;
        let every_group = if all_groups.is_empty() { &found.reads } else { &all_groups };
        let mut overflowed = Vec::new();
        for (read, points) in plan.period.reads.iter().zip(every_group) {
            for name in self.overflowed(read, points).await? {
                if !overflowed.contains(&name) {
                    overflowed.push(name);
                }
            }
        }
        let newest: Vec<(&Read, &[Point])> =
            plan.period.reads.iter().zip(every_group).map(|(read, points)| (read, points.as_slice())).collect();
        found.looked_up = LookedUp { overflowed, newest: self.newest(&newest).await };
        Ok(found)
    }

    /// The groups of a series that are not shown, as one.
    async fn others_of(&mut self, plan: &SeriesPlan, read: &Read, points: &[Point]) -> Result<Vec<Point>, ReadError> {
        if !plan.other || points.iter().all(|point| point.rank <= plan.limit) {
            return Ok(Vec::new());
        }
        let shown = points.iter().filter(|point| point.rank <= plan.limit).map(|point| point.groups.clone());
        let shown = nameable(shown.collect())?;
        self.points(&read.without(shown)).await
    }

    /// Those of a structured answer.
    async fn others(&mut self, plan: &StructuredPlan, found: &PlanPoints) -> Result<Option<Others>, ReadError> {
        if !plan.shape.include.other {
            return Ok(None);
        }
        let Some(shown) = render::structured::before_the_rest(plan, found) else { return Ok(None) };
        let shown = nameable(shown.into_iter().collect())?;
        let without = |reads: &[Read]| reads.iter().map(|read| read.without(shown.iter().cloned())).collect::<Vec<_>>();
        let mut others = Others { reads: self.all(&without(&plan.period.reads)).await?, ..Others::default() };
        if let Some(previous) = &plan.previous {
            others.previous = self.all(&without(&previous.reads)).await?;
            if let Some(running) = &previous.running {
                others.previous_running = self.all(&without(&running.reads)).await?;
            }
        }
        Ok(Some(others))
    }

    /// What a reading's answer says beside its points.
    async fn beside(&mut self, read: &Read, points: &[Point]) -> Result<LookedUp, ReadError> {
        let overflowed = self.overflowed(read, points).await?;
        Ok(LookedUp { overflowed, newest: self.newest(&[(read, points)]).await })
    }

    async fn all(&mut self, reads: &[Read]) -> Result<Vec<Vec<Point>>, ReadError> {
        let mut found = Vec::with_capacity(reads.len());
        for read in reads {
            found.push(if read.from < read.to { self.points(read).await? } else { Vec::new() });
        }
        Ok(found)
    }

    async fn read(&mut self, read: &Read) -> Result<Vec<Point>, ReadError> {
        let points = match self.by_group(read).await? {
            Some(points) => points,
            None => self.ask(&sql::read(read, self.scope.project())).await?,
        };
        self.budget.take(points.len())?;
        if read.top.is_some() { Ok(points) } else { bounded(points) }
    }

    /// The points of the greatest groups, where they can be found in one look.
    async fn by_group(&mut self, read: &Read) -> Result<Option<Vec<Point>>, ReadError> {
        let Some(statement) = sql::by_group(read, self.scope.project()) else { return Ok(None) };
        match self.ask(&statement).await {
            Ok(groups) => Ok(Some(sql::points(groups))),
            Err(ReadError::TooExpensive { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask<R: RowOwned + RowRead>(&mut self, statement: &Statement) -> Result<Vec<R>, ReadError> {
        let answered = self.sources.store.read(statement, &self.ask).await?;
        self.cost += answered.cost;
        Ok(answered.rows)
    }
}

/// Start of the newest bucket of a report, of the parts that begin at `from` or later.
fn newest_line(lines: &[Line], from: i64) -> Option<i64> {
    lines.iter().filter(|line| line.section == section::TOTAL && line.at >= from).map(|line| line.newest).max()
}

/// Groups that one statement can name: ClickHouse takes a megabyte of URL, in which a byte may take three.
fn nameable(groups: BTreeSet<Vec<String>>) -> Result<BTreeSet<Vec<String>>, ReadError> {
    // With the length of each, and the quotes.
    let bytes: usize = groups.iter().flatten().map(|value| value.len() + 10).sum();
    if bytes > 300_000 {
        return Err(ReadError::TooExpensive { limit: "300,000 bytes of groups that are shown beside `other`" });
    }
    Ok(groups)
}

fn bounded(points: Vec<Point>) -> Result<Vec<Point>, ReadError> {
    if points.len() as i64 > MOST_ROWS {
        return Err(ReadError::TooExpensive { limit: "100,000 rows of groups and buckets" });
    }
    Ok(points)
}
