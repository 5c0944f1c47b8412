//! Admission: a budget of bytes for the bodies of all requests together, reserved before a body is read.

use std::sync::Arc;

use tallyhouse_schema::project::Priority;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::request::RequestError;

/// One permit stands for so many bytes: a semaphore counts 32-bit permits, and finer accounting gains nothing.
const UNIT: usize = 1_024;

/// How much of the budget may be in use, in per cent, when a request of this priority comes. What it needs itself is not
/// asked: the last one let in may go beyond, up to the whole, so that a large body is not refused by an idle service.
const fn used_percent_at_most(priority: Priority) -> usize {
    match priority {
        Priority::Low => 50,
        Priority::Normal => 80,
        Priority::High => 100,
    }
}

#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: usize,
}

/// A reservation; dropping it gives the bytes back.
#[derive(Debug)]
pub struct Reservation(#[allow(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let total = bytes / UNIT;
        Self { units: Arc::new(Semaphore::new(total)), total }
    }

    /// Reserves `bytes`, or refuses at once: waiting here would only hide the overload in a queue without a limit.
    /// A body larger than the whole budget takes all of it. Whose priority is lower is refused earlier, so that the rest of
    /// the room is there for those with a higher one.
    pub fn reserve(&self, bytes: usize, priority: Priority) -> Result<Reservation, RequestError> {
        let used = self.total - self.units.available_permits();
        if used > self.total * used_percent_at_most(priority) / 100 {
            return Err(RequestError::Overloaded);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT).clamp(1, self.total.max(1))).unwrap_or(u32::MAX);
        match Arc::clone(&self.units).try_acquire_many_owned(units) {
            Ok(permit) => Ok(Reservation(permit)),
            Err(_) => Err(RequestError::Overloaded),
        }
    }

    /// Bytes reserved at the moment.
    pub fn reserved(&self) -> usize {
        (self.total - self.units.available_permits()) * UNIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_until_room_is_given_back() {
        let budget = Budget::new(10 * UNIT);
        let held = budget.reserve(8 * UNIT, Priority::High).unwrap();
        assert_eq!(budget.reserve(3 * UNIT, Priority::High).unwrap_err(), RequestError::Overloaded);
        assert_eq!(budget.reserved(), 8 * UNIT);
        drop(held);
        assert!(budget.reserve(100 * UNIT, Priority::Low).is_ok());
    }

    #[test]
    fn the_lower_the_priority_the_earlier_the_refusal() {
        let budget = Budget::new(1_000 * UNIT);
        let mut held = Vec::new();
        let mut until_refused = |priority| {
            while let Ok(reservation) = budget.reserve(10 * UNIT, priority) {
                held.push(reservation);
            }
            budget.reserved() / UNIT
        };
        assert_eq!(until_refused(Priority::Low), 510);
        assert_eq!(until_refused(Priority::Normal), 810);
        assert_eq!(until_refused(Priority::Low), 810);
        assert_eq!(until_refused(Priority::High), 1_000);
    }
}
