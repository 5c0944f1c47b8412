//! In-flight parts: parts of answers that this process is computing. Each is computed once, for all queries that need it.
//!
//! ```text
//! reserve all missing parts at once -> owner:  compute, publish to the waiters, cache, release
//!                                   -> waiter: wait for the owner, once all own parts are published
//! ```
//!
//! A query publishes its own parts before it waits for others, so there is no deadlock. An owner that fails or is cancelled releases
//! its parts, and one of the waiters reserves them. A part is passed to its waiters directly, so that they have it even when it does
//! not fit into memory.
//!
//! Only queries of one class share: dashboards must not wait behind ad hoc queries for a permit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::key::PartKey;
use super::parts::CachedPart;
use super::single_flight::lock;
use super::stamp::DaysStamp;
use crate::admission::Class;

/// The reserved parts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct InFlightParts {
    reserved: Arc<Mutex<HashMap<PartId, watch::Receiver<Option<CachedPart>>>>>,
}

/// A part as read at one stamp.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PartId {
    class: Class,
    key: Arc<str>,
    days: DaysStamp,
}

/// Who computes a part.
#[derive(Debug)]
pub enum Reservation {
    Owner(PartOwner),
    /// Another query.
    Waiter(PartWaiter),
}

/// The caller computes the part. Dropping the owner releases it.
#[derive(Debug)]
pub struct PartOwner {
    name: PartId,
    outcome: watch::Sender<Option<CachedPart>>,
    all: InFlightParts,
}

/// A part that another query computes.
#[derive(Debug)]
pub struct PartWaiter {
    outcome: watch::Receiver<Option<CachedPart>>,
}

impl InFlightParts {
    /// Reserves parts for a question of this class, in the order of their keys.
    pub fn reserve<'k>(&self, class: Class, keys: impl IntoIterator<Item = &'k PartKey>) -> Vec<Reservation> {
        let mut reserved = lock(&self.reserved);
        let reserve = |key: &PartKey| {
            let name = PartId { class, key: Arc::clone(&key.name), days: key.stamp.days };
            if let Some(outcome) = reserved.get(&name) {
                return Reservation::Waiter(PartWaiter { outcome: outcome.clone() });
            }
            let (publish, outcome) = watch::channel(None);
            reserved.insert(name.clone(), outcome);
            Reservation::Owner(PartOwner { name, outcome: publish, all: self.clone() })
        };
        keys.into_iter().map(reserve).collect()
    }
}

impl PartOwner {
    /// Gives the part to all waiters.
    pub fn publish(&self, part: CachedPart) {
        self.outcome.send_replace(Some(part));
    }
}

impl Drop for PartOwner {
    fn drop(&mut self) {
        lock(&self.all.reserved).remove(&self.name);
    }
}

impl PartWaiter {
    /// The part, or `None` when its owner gave up. Call it with no own part unpublished, and within a deadline: the owner has
    /// one too, but may begin later.
    pub async fn part(mut self) -> Option<CachedPart> {
        self.outcome.wait_for(Option::is_some).await.ok().and_then(|part| part.clone())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::authorize::Scope;
    use crate::cache::stamp::{Generation, VersionStamp};

    fn key(what: &str, sum: u64) -> PartKey {
        let days = DaysStamp::Known { epoch: 0, sum };
        let stamp = VersionStamp { generation: Generation::Process { all: 0, project: 0 }, days };
        PartKey::of(&Scope::for_test("p"), &what, stamp)
    }

    fn part() -> CachedPart {
        CachedPart { bytes: Bytes::from_static(b"part"), read_ms: 7 }
    }

    fn one(in_flight: &InFlightParts, class: Class, key: &PartKey) -> Reservation {
        in_flight.reserve(class, [key]).pop().unwrap()
    }

    #[tokio::test]
    async fn those_who_wait_have_it_and_those_who_come_later_compute() {
        let (in_flight, a) = (InFlightParts::default(), key("a", 1));
        let Reservation::Owner(owner) = one(&in_flight, Class::Dashboard, &a) else {
            panic!("nobody else computes it")
        };
        let Reservation::Waiter(waiter) = one(&in_flight, Class::Dashboard, &a) else { panic!("it is computed") };
        let (waits, ()) = tokio::join!(waiter.part(), async { owner.publish(part()) });
        assert_eq!(waits, Some(part()));
        let Reservation::Waiter(late) = one(&in_flight, Class::Dashboard, &a) else { panic!("it was not released") };
        drop(owner);
        assert_eq!(late.part().await, Some(part()), "published before it was released");
        assert!(matches!(one(&in_flight, Class::Dashboard, &a), Reservation::Owner(_)));
        assert!(lock(&in_flight.reserved).is_empty(), "released parts are forgotten");
    }

    #[tokio::test]
    async fn a_part_that_is_released_unpublished_is_free() {
        let (in_flight, a) = (InFlightParts::default(), key("a", 1));
        let Reservation::Owner(owner) = one(&in_flight, Class::Dashboard, &a) else {
            panic!("nobody else computes it")
        };
        let Reservation::Waiter(waiter) = one(&in_flight, Class::Dashboard, &a) else { panic!("it is computed") };
        drop(owner);
        assert_eq!(waiter.part().await, None);
        assert!(matches!(one(&in_flight, Class::Dashboard, &a), Reservation::Owner(_)));
    }

    #[tokio::test]
    async fn other_parts_stamps_and_classes_are_not_waited_for() {
        let in_flight = InFlightParts::default();
        let held = in_flight.reserve(Class::Dashboard, [&key("a", 1), &key("b", 1)]);
        assert!(held.iter().all(|part| matches!(part, Reservation::Owner(_))));
        for (class, key) in
            [(Class::Dashboard, key("c", 1)), (Class::Dashboard, key("a", 2)), (Class::AdHoc, key("a", 1))]
        {
            assert!(matches!(one(&in_flight, class, &key), Reservation::Owner(_)), "{class:?} {key:?}");
        }
        assert!(matches!(one(&in_flight, Class::Dashboard, &key("b", 1)), Reservation::Waiter(_)));
    }
}
