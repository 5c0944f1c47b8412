//! Carries a plan out: reads what it says, and renders what was found.
//!
//! ```text
//! Read -> chunks -> those that are remembered, at the stamp of their days
//!                -> the others, neighbours in one statement -> remembered -> joined, in order
//! ```
//!
//! A stamp is taken before anything is read: what is written meanwhile belongs to the next one, and the part is not found
//! again. A part that cannot be decoded is as good as none.

use std::time::Duration;

use bytes::Bytes;
use tallyhouse_sql::clickhouse::{RowOwned, RowRead};

use crate::anomalies;
use crate::authorize::Scope;
use crate::cache::reach::Reach;
use crate::cache::ttl::Life;
use crate::cache::{PartKey, Parts, Versions};
use crate::journeys;
use crate::plan::chunks::{Chunk, cut};
use crate::plan::read::Read;
use crate::plan::structured::{StructuredPlan, only};
use crate::plan::{OneSeries, Plan};
use crate::render::structured::Found;
use crate::render::table::Greatest;
use crate::render::{self, Rendered};
use crate::request::structured::Form;
use crate::sql::{self, MOST_ROWS, Place, Point, Statement};
use crate::store::{Ask, Cost, ReadError, Store};

/// An answer of one query is ended by the query's own deadline, which the breaker hears of; this much later, whatever an
/// answer of several is still reading is stopped.
const GRACE: Duration = Duration::from_millis(250);

/// Where answers are computed from. Clones share it.
#[derive(Clone)]
pub struct Sources {
    /// ClickHouse.
    pub store: Store,
    /// Chunks that are known.
    pub parts: Parts,
    /// What they are worth.
    pub versions: Versions,
}

/// When a plan is carried out, and how.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The present.
    pub now_ms: i64,
    /// What of it may be remembered.
    pub recall: Recall,
}

/// Which chunks may be taken from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// All that are known.
    All,
    /// Those that are over; what still changes is read, and not remembered.
    Closed,
    /// None: everything is read anew.
    Nothing,
}

impl Recall {
    const fn allows(self, is_closed: bool) -> bool {
        match self {
            Self::All => true,
            Self::Closed => is_closed,
            Self::Nothing => false,
        }
    }
}

/// A plan being carried out.
pub struct Execution {
    sources: Sources,
    scope: Scope,
    moment: Moment,
    ask: Ask,
    /// What was read so far.
    cost: Cost,
}

impl Sources {
    /// The beginning of carrying out a plan for a caller.
    pub fn execution(&self, scope: &Scope, plan: &Plan, moment: Moment) -> Execution {
        let ask = Ask { class: plan.class(), project: scope.project().to_owned() };
        Execution { sources: self.clone(), scope: scope.clone(), moment, ask, cost: Cost::default() }
    }
}

impl Execution {
    /// Reads and renders a plan, within the time of its class: whatever is still being read then is stopped.
    pub async fn run(mut self, plan: &Plan) -> Result<Rendered, ReadError> {
        let within = self.sources.store.deadline(self.ask.class) + GRACE;
        let rendered = tokio::time::timeout(within, self.rendered(plan)).await.map_err(|_| ReadError::TimedOut)??;
        Ok(rendered.with_cost(&self.cost))
    }

    async fn rendered(&mut self, plan: &Plan) -> Result<Rendered, ReadError> {
        let generated_s = self.moment.now_ms.div_euclid(1_000);
        Ok(match plan {
            Plan::Series(plan) => {
                let read = plan.read();
                let points = self.points(&read).await?;
                let overflowed = self.overflowed(&read).await?;
                render::series::render(plan, &points, overflowed, generated_s)
            }
            Plan::Anomalies(plan) => {
                let read = match &plan.series {
                    OneSeries::BuiltIn(series) => {
                        let read = series.read();
                        let (points, overflowed) = (self.points(&read).await?, self.overflowed(&read).await?);
                        anomalies::Read::BuiltIn { plan: series.clone(), points, overflowed }
                    }
                    OneSeries::Registered(series) => {
                        anomalies::Read::Registered { plan: series.clone(), found: self.structured(series).await? }
                    }
                };
                anomalies::judge(plan.clone(), read, self.moment.now_ms).await?
            }
            Plan::Journey(plan) => {
                let (rendered, cost) = journeys::compute(&self.sources.store, &self.ask, plan, generated_s).await?;
                self.cost += cost;
                rendered
            }
            Plan::Realtime(plan) => {
                let lines = self.ask(&sql::realtime(plan, self.scope.project())).await?;
                render::report::realtime(plan, &lines, generated_s)
            }
            Plan::Daily(plan) => {
                let lines = self.ask(&sql::daily(plan, self.scope.project())).await?;
                render::report::daily(plan, &lines, generated_s)
            }
            Plan::Structured(plan) => {
                let found = self.structured(plan).await?;
                render::structured::render(plan, &found, generated_s)
            }
        })
    }

    async fn structured(&mut self, plan: &StructuredPlan) -> Result<Found, ReadError> {
        let greatest = match plan.shape.form {
            Form::Series(most) if !plan.ranking.is_empty() => {
                Some(Greatest::of(plan, &self.all(&plan.ranking).await?, most as usize))
            }
            Form::Series(_) | Form::Table => None,
        };
        let reads = match &greatest {
            Some(Greatest { groups, .. }) => plan.period.reads.iter().map(|read| only(read, groups)).collect(),
            None => plan.period.reads.clone(),
        };
        let mut found = Found {
            greatest,
            reads: self.all(&reads).await?,
            totals: self.all(&plan.period.totals).await?,
            ..Found::default()
        };
        if let Some(previous) = &plan.previous {
            found.previous = self.all(&previous.reads).await?;
            found.previous_totals = self.all(&previous.totals).await?;
        }
        for read in &plan.period.reads {
            for name in self.overflowed(read).await? {
                if !found.overflowed.contains(&name) {
                    found.overflowed.push(name);
                }
            }
        }
        Ok(found)
    }

    async fn all(&mut self, reads: &[Read]) -> Result<Vec<Vec<Point>>, ReadError> {
        let mut found = Vec::with_capacity(reads.len());
        for read in reads {
            found.push(self.points(read).await?);
        }
        Ok(found)
    }

    /// The points of a reading, in chunks where it can be cut.
    async fn points(&mut self, read: &Read) -> Result<Vec<Point>, ReadError> {
        let Some(cut) = cut(read, self.moment.now_ms.div_euclid(1_000)) else { return self.read(read).await };
        let keys = self.keys(&cut.chunks).await;
        let recall = self.moment.recall;
        let remembered =
            if recall == Recall::Nothing { vec![None; keys.len()] } else { self.sources.parts.get_many(&keys).await };
        let recalled = |(part, chunk): (Option<Bytes>, &Chunk)| {
            postcard::from_bytes(&part.filter(|_| recall.allows(chunk.is_closed))?).ok()
        };
        let mut chunks: Vec<Option<Vec<Point>>> = remembered.into_iter().zip(&cut.chunks).map(recalled).collect();
        let mut computed = Vec::new();
        for run in missing(&chunks) {
            let asked = cut.chunks.get(run.clone()).unwrap_or_default();
            let (Some(first), Some(last)) = (asked.first(), asked.last()) else { continue };
            let points = self.read(&joined(first, last)).await?;
            for ((place, chunk), points) in run.zip(asked).zip(split(asked, points)) {
                let life = if chunk.is_closed { Life::Closed } else { Life::Open };
                let is_kept = chunk.is_closed || recall != Recall::Closed;
                if let (Some(key), Ok(written), true) = (keys.get(place), postcard::to_stdvec(&points), is_kept) {
                    computed.push((key.clone(), Bytes::from(written), life));
                }
                if let Some(slot) = chunks.get_mut(place) {
                    *slot = Some(points);
                }
            }
        }
        self.sources.parts.put_many(computed);
        let points: Vec<Point> = chunks.into_iter().flatten().flatten().filter(|point| cut.keeps(point.at)).collect();
        bounded(points)
    }

    async fn keys(&self, chunks: &[Chunk]) -> Vec<PartKey> {
        let mut keys = Vec::with_capacity(chunks.len());
        for Chunk { read, .. } in chunks {
            let days = Reach::between(read.from, read.to).closed_days(self.moment.now_ms);
            let stamp = self.sources.versions.stamp(self.scope.project(), days).await;
            keys.push(PartKey::of(&self.scope, read, stamp));
        }
        keys
    }

    async fn read(&mut self, read: &Read) -> Result<Vec<Point>, ReadError> {
        let points = self.ask(&sql::read(read, self.scope.project())).await?;
        if read.top.is_some() { Ok(points) } else { bounded(points) }
    }

    async fn ask<R: RowOwned + RowRead>(&mut self, statement: &Statement) -> Result<Vec<R>, ReadError> {
        let answered = self.sources.store.read(statement, &self.ask).await?;
        self.cost += answered.cost;
        Ok(answered.rows)
    }

    /// The dimensions that the caller asked about of which some values are counted as `__other__`.
    async fn overflowed(&mut self, read: &Read) -> Result<Vec<String>, ReadError> {
        let Some(statement) = sql::overflowed(read, self.scope.project()) else { return Ok(Vec::new()) };
        let places: Vec<Place> = self.ask(&statement).await?;
        Ok(read.named(&places).into_iter().map(str::to_owned).collect())
    }
}

fn bounded(points: Vec<Point>) -> Result<Vec<Point>, ReadError> {
    if points.len() as i64 > MOST_ROWS {
        return Err(ReadError::TooExpensive { limit: "100,000 rows of groups and buckets" });
    }
    Ok(points)
}

/// Runs of neighbours that are not there.
fn missing<T>(chunks: &[Option<T>]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (place, _) in chunks.iter().enumerate().filter(|(_, chunk)| chunk.is_none()) {
        match runs.last_mut() {
            Some(run) if run.end == place => run.end += 1,
            _ => runs.push(place..place + 1),
        }
    }
    runs
}

/// One reading for neighbouring chunks.
fn joined(first: &Chunk, last: &Chunk) -> Read {
    let mut read = first.read.clone();
    read.to = last.read.to;
    if let Some(frame) = &mut read.buckets {
        frame.to = last.read.to;
    }
    read
}

/// The points of each chunk. A bucket that begins before the first chunk belongs to it: the range began within it.
fn split(chunks: &[Chunk], points: Vec<Point>) -> Vec<Vec<Point>> {
    let mut parts: Vec<Vec<Point>> = chunks.iter().map(|_| Vec::new()).collect();
    for point in points {
        let place = chunks.partition_point(|chunk| chunk.read.to <= point.at);
        if let Some(part) = parts.get_mut(place) {
            part.push(point);
        }
    }
    parts
}
