//! Room for bodies: a budget of bytes for all requests together, reserved before a body is read.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::error::RequestError;

/// One permit stands for so many bytes: a semaphore counts 32-bit permits, and finer accounting gains nothing.
const UNIT: usize = 1_024;

/// The budget.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: usize,
}

/// A reservation; dropping it gives the bytes back.
#[derive(Debug)]
pub struct Reservation(#[allow(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total = bytes / UNIT;
        Self { units: Arc::new(Semaphore::new(total)), total }
    }

    /// Reserves `bytes`, or refuses at once: waiting here would only hide the overload in a queue without a limit.
    /// A body larger than the whole budget takes all of it.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, RequestError> {
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
        let held = budget.reserve(8 * UNIT).unwrap();
        assert_eq!(budget.reserve(3 * UNIT).unwrap_err(), RequestError::Overloaded);
        assert_eq!(budget.reserved(), 8 * UNIT);
        drop(held);
        assert!(budget.reserve(100 * UNIT).is_ok());
    }
}
