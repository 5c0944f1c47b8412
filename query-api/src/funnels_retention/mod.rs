//! Funnels and retention: what users did after one another, computed from raw events.
//!
//! ```text
//! body -> Funnel | Retention -> FunnelPlan | RetentionPlan -> size -> one statement -> render -> Rendered
//!         400 with the field    cache key                     422      422, 503, 504
//! ```
//!
//! No rollup holds the order of a person's events, so both read events one by one, in the class of ad-hoc queries. Three limits bound
//! the cost: a range of a year, [`MOST_EVENTS`] events (looked up before anything is read: the refusal says what would
//! fit), and the store's own limits of memory and time. An empty result is an answer of zeros.
//!
//! A person is a `user_hash`. Events without one (0) are left out and counted in `meta.events_without_user`. An event that was stored
//! twice counts once.

mod funnel;
mod retention;

use crate::cache::Rendered;
use crate::plan::funnel::FunnelPlan;
use crate::plan::newest::Newest;
use crate::plan::read::Source;
use crate::plan::retention::RetentionPlan;
use crate::plan::scan::Scan;
use crate::render::meta::About;
use crate::sql::funnels_retention as statements;
use crate::store::{AdmissionRequest, Answered, Cost, ReadError, Store};
use crate::time::{MINUTE, Zone};

/// Events that one question reads at most, so that it ends well within the 30 s of a query. Measured on two cores, with parts
/// yet to be merged: a funnel of four steps over 10.5 M events of 500,000 people took 2.6 s, with a breakdown 4.7 s; daily
/// retention over 13 M events 6.0 s.
pub const MOST_EVENTS: u64 = 25_000_000;

/// Computes a funnel for the project of `ask`; `generated_s` is the present in seconds, for the answer's meta.
pub async fn funnel(
    store: &Store,
    ask: &AdmissionRequest,
    plan: &FunnelPlan,
    generated_s: i64,
) -> Result<(Rendered, Cost), ReadError> {
    let cost = checked(store, ask, &plan.scan()).await?;
    let found = store.read(&statements::funnel(plan, &ask.project), ask).await?;
    Ok((funnel::render(plan, &found.rows, generated_s), cost + found.cost))
}

/// Computes retention, likewise.
pub async fn retention(
    store: &Store,
    ask: &AdmissionRequest,
    plan: &RetentionPlan,
    generated_s: i64,
) -> Result<(Rendered, Cost), ReadError> {
    let cost = checked(store, ask, &plan.scan()).await?;
    let found = store.read(&statements::retention(plan, &ask.project), ask).await?;
    Ok((retention::render(plan, &found.rows, generated_s), cost + found.cost))
}

/// Looks up how many events would be read, and refuses too many; what that cost.
async fn checked(store: &Store, ask: &AdmissionRequest, scan: &Scan) -> Result<Cost, ReadError> {
    let Answered { rows: sizes, cost } =
        store.read::<statements::Size>(&statements::size(scan, &ask.project), ask).await?;
    within_limits(scan, sizes.first().map_or(0, |size| size.events))?;
    Ok(cost)
}

/// Refuses what is too much, and says how long a range of so many events an hour would not be.
fn within_limits(scan: &Scan, events: u64) -> Result<(), ReadError> {
    if events <= MOST_EVENTS {
        return Ok(());
    }
    let minutes = u64::try_from((scan.to - scan.from) / MINUTE).unwrap_or(0);
    let fitting = u128::from(minutes) * u128::from(MOST_EVENTS) / u128::from(events);
    let fitting_hours = u64::try_from(fitting / 60).unwrap_or(u64::MAX);
    Err(ReadError::TooManyEvents { events, limit: MOST_EVENTS, fitting_hours })
}

/// What every answer says: read from raw events, exact.
fn about(zone: &Zone, (from, to): (i64, i64), newest_ms: Option<i64>, generated_s: i64) -> About<'_> {
    About {
        tables: vec![Source::Raw.table()],
        zone,
        from,
        to,
        newest: newest_ms.map(Newest::exact),
        errors: Vec::new(),
        overflowed: Vec::new(),
        generated_s,
    }
}

/// A part of a whole, 0 to 1; of nobody it is 0.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_told_with_what_would_fit() {
        let scan = Scan { from: 0, to: 200 * 3_600, types: None };
        assert_eq!(within_limits(&scan, MOST_EVENTS), Ok(()));
        let refused = within_limits(&scan, MOST_EVENTS * 4).unwrap_err();
        assert_eq!(
            refused,
            ReadError::TooManyEvents { events: MOST_EVENTS * 4, limit: MOST_EVENTS, fitting_hours: 50 }
        );
        assert!(refused.to_string().contains("about 50 hours"), "{refused}");
    }
}
