//! Carries a plan out: reads what it says, and renders what was found.

use crate::plan::Plan;
use crate::plan::read::Read;
use crate::plan::structured::StructuredPlan;
use crate::render::structured::Found;
use crate::render::{self, Rendered};
use crate::sql::{self, MOST_ROWS, Place, Point};
use crate::store::{ReadError, Store};

/// Reads and renders a plan for a project; `generated_s` is the present, in seconds.
pub async fn execute(store: &Store, project: &str, plan: &Plan, generated_s: i64) -> Result<Rendered, ReadError> {
    Ok(match plan {
        Plan::Series(plan) => {
            let read = plan.read();
            let points = points(store, project, &read).await?;
            let places = overflowed(store, project, &read).await?;
            render::series::render(plan, &points, &read.named(&places), generated_s)
        }
        Plan::Realtime(plan) => {
            let lines = store.read(&sql::realtime(plan, project)).await?;
            render::report::realtime(plan, &lines, generated_s)
        }
        Plan::Daily(plan) => {
            let lines = store.read(&sql::daily(plan, project)).await?;
            render::report::daily(plan, &lines, generated_s)
        }
        Plan::Structured(plan) => {
            let found = structured(store, project, plan).await?;
            render::structured::render(plan, &found, generated_s)
        }
    })
}

async fn structured(store: &Store, project: &str, plan: &StructuredPlan) -> Result<Found, ReadError> {
    let mut found = Found {
        reads: all(store, project, &plan.period.reads).await?,
        totals: all(store, project, &plan.period.totals).await?,
        ..Found::default()
    };
    if let Some(previous) = &plan.previous {
        found.previous = all(store, project, &previous.reads).await?;
        found.previous_totals = all(store, project, &previous.totals).await?;
    }
    for read in &plan.period.reads {
        let places = overflowed(store, project, read).await?;
        for name in read.named(&places) {
            if !found.overflowed.iter().any(|known| known == name) {
                found.overflowed.push(name.to_owned());
            }
        }
    }
    Ok(found)
}

async fn all(store: &Store, project: &str, reads: &[Read]) -> Result<Vec<Vec<Point>>, ReadError> {
    let mut found = Vec::with_capacity(reads.len());
    for read in reads {
        found.push(points(store, project, read).await?);
    }
    Ok(found)
}

async fn points(store: &Store, project: &str, read: &Read) -> Result<Vec<Point>, ReadError> {
    let points: Vec<Point> = store.read(&sql::read(read, project)).await?;
    if read.top.is_none() && points.len() as i64 > MOST_ROWS {
        return Err(ReadError::TooExpensive { limit: "100,000 rows of groups and buckets" });
    }
    Ok(points)
}

async fn overflowed(store: &Store, project: &str, read: &Read) -> Result<Vec<Place>, ReadError> {
    match sql::overflowed(read, project) {
        Some(statement) => store.read(&statement).await,
        None => Ok(Vec::new()),
    }
}
