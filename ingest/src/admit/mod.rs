//! Admission: a budget of bytes for the bodies of all requests together.
//!
//! ```text
//! request -> a page of room -> more as bytes arrive -> more as they inflate, before each step -> all back at its end
//! ```
//!
//! A request holds what it has, never what it announced: who announces much and sends nothing takes a page. Room is refused at once (429):
//! waiting here would only hide the overload in a queue without a limit.
//!
//! Failure cases:
//! * bodies that inflate to much more than was sent: each step is reserved before it is made, so they are refused when the budget is reached;
//! * one project sends too much: it may have half of the budget, so that others are served. Of both halves and of the whole large bodies may
//!   have less than small ones, so that those who send a few events are served beside them;
//! * much is to be inflated or parsed: a bounded number of threads does it, and one project has half of them ([`Threads`]);
//! * a body as large as the limits allow is always taken by a service that is nearly idle, however small the budget is.

mod threads;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tallyhouse_schema::project::Priority;

use crate::limits::RequestLimits;
use crate::request::RequestError;
pub use threads::Threads;

/// Room is taken in such steps: finer accounting gains nothing.
const PAGE: usize = 4 << 10;

/// A request with more than this is large.
const LARGE: usize = 256 << 10;

/// How much of the budget may be in use, in per cent. Whose priority is lower is refused earlier, so that the rest of the room is there for
/// those with a higher one.
const fn used_percent_at_most(priority: Priority) -> usize {
    match priority {
        Priority::Low => 50,
        Priority::Normal => 80,
        Priority::High => 100,
    }
}

/// What large requests leave to small ones, in per cent.
const FOR_SMALL_PERCENT: usize = 10;

#[derive(Debug, Clone)]
pub struct Budget {
    usage: Arc<Mutex<Usage>>,
    limits: BudgetLimits,
}

#[derive(Debug, Clone, Copy)]
struct BudgetLimits {
    total: usize,
    /// What the largest body takes: as sent and inflated, or inflated and repaired.
    largest: usize,
}

#[derive(Debug, Default)]
struct Usage {
    all: usize,
    of_project: Vec<usize>,
    /// Where in `of_project` a project is. There are as many as have keys.
    places: HashMap<String, usize>,
}

/// The room of a request; dropping it gives the bytes back.
#[derive(Debug)]
pub struct Room {
    budget: Budget,
    project: usize,
    priority: Priority,
    held: usize,
}

impl BudgetLimits {
    /// Whether a request that holds so much may have more, with so much in use in all and of its project.
    fn allows(self, (all, of_project): (usize, usize), held: usize, more: usize, priority: Priority) -> bool {
        let for_small = if held + more > LARGE { FOR_SMALL_PERCENT } else { 0 };
        let percent = |of: usize, percent: usize| of / 100 * (percent - for_small);
        let fits = |used: usize, most: usize| {
            let is_nearly_alone = used - held <= self.total / 16 && held + more <= self.largest;
            used + more <= most || is_nearly_alone
        };
        fits(all, percent(self.total, used_percent_at_most(priority))) && fits(of_project, percent(self.total / 2, 100))
    }
}

impl Budget {
    pub fn new(limits: &RequestLimits) -> Self {
        let (total, decoded) = (limits.open_bytes, limits.decoded_bytes);
        // Pages and the byte that tells "full" from "too large" beside it.
        let largest = (limits.body_bytes.max(decoded) + decoded + 4 * PAGE).min(total);
        Self { usage: Arc::default(), limits: BudgetLimits { total, largest } }
    }

    /// Room for a request that has just come: a page.
    pub fn enter(&self, project: &str, priority: Priority) -> Result<Room, RequestError> {
        let project = self.lock().place(project);
        let mut room = Room { budget: self.clone(), project, priority, held: 0 };
        room.cover(PAGE)?;
        Ok(room)
    }

    /// Bytes reserved at the moment.
    pub fn reserved(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage {
    fn place(&mut self, project: &str) -> usize {
        if let Some(place) = self.places.get(project) {
            return *place;
        }
        let place = self.of_project.len();
        self.of_project.push(0);
        self.places.insert(project.to_owned(), place);
        place
    }
}

impl Room {
    /// Makes it at least so large, or refuses.
    pub fn cover(&mut self, bytes: usize) -> Result<(), RequestError> {
        let Some(more) = bytes.checked_sub(self.held).filter(|more| *more > 0) else { return Ok(()) };
        let more = more.next_multiple_of(PAGE);
        let mut usage = self.budget.lock();
        let Usage { all, of_project, .. } = &mut *usage;
        let Some(of_project) = of_project.get_mut(self.project) else { return Err(RequestError::Internal) };
        if !self.budget.limits.allows((*all, *of_project), self.held, more, self.priority) {
            return Err(RequestError::Overloaded);
        }
        *all += more;
        *of_project += more;
        drop(usage);
        self.held += more;
        Ok(())
    }

    /// Gives back what is beyond so much.
    pub fn shrink_to(&mut self, bytes: usize) {
        let kept = bytes.next_multiple_of(PAGE).min(self.held);
        let back = self.held - kept;
        let mut usage = self.budget.lock();
        usage.all -= back;
        if let Some(of_project) = usage.of_project.get_mut(self.project) {
            *of_project -= back;
        }
        drop(usage);
        self.held = kept;
    }

    /// Bytes that it has.
    pub fn held(&self) -> usize {
        self.held
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: usize = 1 << 20;

    fn budget() -> Budget {
        Budget::new(&RequestLimits {
            body_bytes: 4 * MIB,
            decoded_bytes: 16 * MIB,
            open_bytes: 64 * MIB,
            ack_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
        })
    }

    /// How much rooms of such a size hold together when the next one is refused.
    fn fill(budget: &Budget, project: &str, priority: Priority, size: usize, into: &mut Vec<Room>) -> usize {
        while let Ok(mut room) = budget.enter(project, priority) {
            if room.cover(size).is_err() {
                break;
            }
            into.push(room);
        }
        budget.reserved()
    }

    #[test]
    fn what_only_was_announced_takes_a_page() {
        let (budget, mut idle) = (budget(), Vec::new());
        for _ in 0..1_000 {
            idle.push(budget.enter("a", Priority::Normal).unwrap());
        }
        assert_eq!(budget.reserved(), 1_000 * PAGE);
        assert!(budget.enter("b", Priority::Low).unwrap().cover(16 * MIB).is_ok());
        drop(idle);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn one_project_has_half_and_large_bodies_leave_room_for_small_ones() {
        let (budget, mut held) = (budget(), Vec::new());
        let large = fill(&budget, "a", Priority::High, 4 * MIB, &mut held);
        assert!((24 * MIB..=29 * MIB).contains(&large), "{large}");
        let mut small = budget.enter("a", Priority::High).unwrap();
        assert!(small.cover(64 << 10).is_ok(), "few events of the same project");
        let mut other = budget.enter("b", Priority::Normal).unwrap();
        assert!(other.cover(8 * MIB).is_ok());
        drop((small, other));
        let all = fill(&budget, "a", Priority::High, 64 << 10, &mut held);
        assert!((31 * MIB..=32 * MIB).contains(&all), "{all}");
        let more = budget.enter("a", Priority::High).and_then(|mut room| room.cover(64 << 10));
        assert_eq!(more, Err(RequestError::Overloaded));
        assert!(budget.enter("b", Priority::Normal).is_ok());
    }

    #[test]
    fn the_lower_the_priority_the_earlier_the_refusal() {
        let (budget, mut held) = (budget(), Vec::new());
        let mut until_refused =
            |priority| ["a", "b", "c"].map(|project| fill(&budget, project, priority, 64 << 10, &mut held) / MIB)[2];
        assert_eq!(until_refused(Priority::Low), 31);
        assert_eq!(until_refused(Priority::Normal), 51);
        assert_eq!(until_refused(Priority::Low), 51);
        assert_eq!(until_refused(Priority::High), 63);
    }

    #[test]
    fn the_largest_body_is_taken_beside_small_ones() {
        let (budget, mut held) = (budget(), Vec::new());
        held.push(budget.enter("a", Priority::Low).unwrap());
        held.push(budget.enter("b", Priority::Low).unwrap());
        let mut room = budget.enter("a", Priority::Low).unwrap();
        room.cover(32 * MIB).unwrap();
        assert_eq!(room.cover(40 * MIB), Err(RequestError::Overloaded));
        room.shrink_to(MIB);
        assert_eq!(room.held(), MIB);
        room.cover(20 * MIB).unwrap();
    }
}
