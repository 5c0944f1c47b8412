//! Parts that are being computed in this process: whoever needs one of them waits for it instead of computing it again.
//!
//! ```text
//! claim what is missing, all at once -> mine:   computed, told to who waits, remembered, let go
//!                                    -> theirs: waited for, once mine are told
//! ```
//!
//! Nobody waits while others wait for it, so that no two wait for each other. Who fails or goes away lets its claims go
//! without a part, and one of those who waited claims them. A part is handed over and not looked up, so that it is there even when
//! memory had no place for it.
//!
//! Only questions of one class share: those of dashboards must not wait behind ad hoc ones for a turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::flight::lock;
use super::key::PartKey;
use super::parts::Remembered;
use super::stamp::DaysStamp;
use crate::admission::Class;

/// Claims on parts; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Underway {
    claims: Arc<Mutex<HashMap<Name, watch::Receiver<Option<Remembered>>>>>,
}

/// A part as read at one stamp.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    class: Class,
    key: Arc<str>,
    days: DaysStamp,
}

/// Who computes a part.
#[derive(Debug)]
pub enum Claim {
    /// Who asked.
    Mine(Mine),
    /// Somebody else.
    Theirs(Theirs),
}

/// A part that is to be computed. Dropping it lets it go.
#[derive(Debug)]
pub struct Mine {
    name: Name,
    told: watch::Sender<Option<Remembered>>,
    all: Underway,
}

/// A part that somebody else computes.
#[derive(Debug)]
pub struct Theirs {
    told: watch::Receiver<Option<Remembered>>,
}

impl Underway {
    /// Claims parts for a question of this class, in the order of their keys.
    pub fn claim<'k>(&self, class: Class, keys: impl IntoIterator<Item = &'k PartKey>) -> Vec<Claim> {
        let mut claims = lock(&self.claims);
        let claim = |key: &PartKey| {
            let name = Name { class, key: Arc::clone(&key.name), days: key.stamp.days };
            if let Some(told) = claims.get(&name) {
                return Claim::Theirs(Theirs { told: told.clone() });
            }
            let (tell, told) = watch::channel(None);
            claims.insert(name.clone(), told);
            Claim::Mine(Mine { name, told: tell, all: self.clone() })
        };
        keys.into_iter().map(claim).collect()
    }
}

impl Mine {
    /// Tells all who wait.
    pub fn tell(&self, part: Remembered) {
        self.told.send_replace(Some(part));
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        lock(&self.all.claims).remove(&self.name);
    }
}

impl Theirs {
    /// The part, or `None` when it was let go without one. To be called with no part of one's own pending, and within a deadline: who
    /// computes it has one, but may begin late.
    pub async fn part(mut self) -> Option<Remembered> {
        self.told.wait_for(Option::is_some).await.ok().and_then(|part| part.clone())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::authorize::Scope;
    use crate::cache::stamp::{Generation, Stamp};

    fn key(what: &str, sum: u64) -> PartKey {
        let days = DaysStamp::Known { epoch: 0, sum };
        let stamp = Stamp { generation: Generation::Process { all: 0, project: 0 }, days };
        PartKey::of(&Scope::for_test("p"), &what, stamp)
    }

    fn part() -> Remembered {
        Remembered { bytes: Bytes::from_static(b"part"), read_ms: 7 }
    }

    fn one(underway: &Underway, class: Class, key: &PartKey) -> Claim {
        underway.claim(class, [key]).pop().unwrap()
    }

    #[tokio::test]
    async fn those_who_wait_are_told_and_those_who_come_later_compute() {
        let (underway, a) = (Underway::default(), key("a", 1));
        let Claim::Mine(mine) = one(&underway, Class::Dashboard, &a) else { panic!("nobody else computes it") };
        let Claim::Theirs(theirs) = one(&underway, Class::Dashboard, &a) else { panic!("it is computed") };
        let (waits, ()) = tokio::join!(theirs.part(), async { mine.tell(part()) });
        assert_eq!(waits, Some(part()));
        let Claim::Theirs(late) = one(&underway, Class::Dashboard, &a) else { panic!("it was not let go") };
        drop(mine);
        assert_eq!(late.part().await, Some(part()), "told before it was let go");
        assert!(matches!(one(&underway, Class::Dashboard, &a), Claim::Mine(_)));
        assert!(lock(&underway.claims).is_empty(), "claims that were let go are forgotten");
    }

    #[tokio::test]
    async fn a_claim_that_is_let_go_without_a_part_is_free() {
        let (underway, a) = (Underway::default(), key("a", 1));
        let Claim::Mine(mine) = one(&underway, Class::Dashboard, &a) else { panic!("nobody else computes it") };
        let Claim::Theirs(theirs) = one(&underway, Class::Dashboard, &a) else { panic!("it is computed") };
        drop(mine);
        assert_eq!(theirs.part().await, None);
        assert!(matches!(one(&underway, Class::Dashboard, &a), Claim::Mine(_)));
    }

    #[tokio::test]
    async fn other_parts_stamps_and_classes_are_not_waited_for() {
        let underway = Underway::default();
        let held = underway.claim(Class::Dashboard, [&key("a", 1), &key("b", 1)]);
        assert!(held.iter().all(|claim| matches!(claim, Claim::Mine(_))));
        for (class, key) in
            [(Class::Dashboard, key("c", 1)), (Class::Dashboard, key("a", 2)), (Class::AdHoc, key("a", 1))]
        {
            assert!(matches!(one(&underway, class, &key), Claim::Mine(_)), "{class:?} {key:?}");
        }
        assert!(matches!(one(&underway, Class::Dashboard, &key("b", 1)), Claim::Theirs(_)));
    }
}
