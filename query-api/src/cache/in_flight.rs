//! In-flight parts: parts of answers that are being computed in this process. Each is computed once, for all who need it.
//!
//! ```text
//! claim all missing parts at once -> owner:  compute, publish to the waiters, cache, drop the claim
//!                                 -> waiter: wait for the owner, once all own parts are published
//! ```
//!
//! Nobody waits before publishing what others wait for, so there is no deadlock. An owner that fails or is cancelled drops its
//! claims, and one of the waiters claims them. A part is passed to its waiters directly, so that they have it even when it does
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

/// The claims on parts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct InFlightParts {
    claims: Arc<Mutex<HashMap<PartId, watch::Receiver<Option<CachedPart>>>>>,
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
pub enum Claim {
    Owner(PartOwner),
    /// Another query.
    Waiter(PartWaiter),
}

/// A claim on a part that the caller computes. Dropping it frees the part.
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
    /// Claims parts for a question of this class, in the order of their keys.
    pub fn claim<'k>(&self, class: Class, keys: impl IntoIterator<Item = &'k PartKey>) -> Vec<Claim> {
        let mut claims = lock(&self.claims);
        let claim = |key: &PartKey| {
            let name = PartId { class, key: Arc::clone(&key.name), days: key.stamp.days };
            if let Some(outcome) = claims.get(&name) {
                return Claim::Waiter(PartWaiter { outcome: outcome.clone() });
            }
            let (publish, outcome) = watch::channel(None);
            claims.insert(name.clone(), outcome);
            Claim::Owner(PartOwner { name, outcome: publish, all: self.clone() })
        };
        keys.into_iter().map(claim).collect()
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
        lock(&self.all.claims).remove(&self.name);
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

    fn one(in_flight: &InFlightParts, class: Class, key: &PartKey) -> Claim {
        in_flight.claim(class, [key]).pop().unwrap()
    }

    #[tokio::test]
    async fn those_who_wait_have_it_and_those_who_come_later_compute() {
        let (in_flight, a) = (InFlightParts::default(), key("a", 1));
        let Claim::Owner(owner) = one(&in_flight, Class::Dashboard, &a) else { panic!("nobody else computes it") };
        let Claim::Waiter(waiter) = one(&in_flight, Class::Dashboard, &a) else { panic!("it is computed") };
        let (waits, ()) = tokio::join!(waiter.part(), async { owner.publish(part()) });
        assert_eq!(waits, Some(part()));
        let Claim::Waiter(late) = one(&in_flight, Class::Dashboard, &a) else { panic!("it was not let go") };
        drop(owner);
        assert_eq!(late.part().await, Some(part()), "published before it was released");
        assert!(matches!(one(&in_flight, Class::Dashboard, &a), Claim::Owner(_)));
        assert!(lock(&in_flight.claims).is_empty(), "claims that were let go are forgotten");
    }

    #[tokio::test]
    async fn a_claim_that_is_let_go_without_a_part_is_free() {
        let (in_flight, a) = (InFlightParts::default(), key("a", 1));
        let Claim::Owner(owner) = one(&in_flight, Class::Dashboard, &a) else { panic!("nobody else computes it") };
        let Claim::Waiter(waiter) = one(&in_flight, Class::Dashboard, &a) else { panic!("it is computed") };
        drop(owner);
        assert_eq!(waiter.part().await, None);
        assert!(matches!(one(&in_flight, Class::Dashboard, &a), Claim::Owner(_)));
    }

    #[tokio::test]
    async fn other_parts_stamps_and_classes_are_not_waited_for() {
        let in_flight = InFlightParts::default();
        let held = in_flight.claim(Class::Dashboard, [&key("a", 1), &key("b", 1)]);
        assert!(held.iter().all(|claim| matches!(claim, Claim::Owner(_))));
        for (class, key) in
            [(Class::Dashboard, key("c", 1)), (Class::Dashboard, key("a", 2)), (Class::AdHoc, key("a", 1))]
        {
            assert!(matches!(one(&in_flight, class, &key), Claim::Owner(_)), "{class:?} {key:?}");
        }
        assert!(matches!(one(&in_flight, Class::Dashboard, &key("b", 1)), Claim::Waiter(_)));
    }
}
