//! Single flight: whoever asks for an answer that is being computed waits for it instead of computing it again.
//!
//! A computation runs in a task of its own, so it outlives the request that started it as long as anybody waits. When
//! the last one goes away it is cancelled. A failure is given to those who wait and to nobody after them.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Computations under way, by key; clones share them.
#[derive(Debug)]
pub struct Flights<K, V> {
    flying: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

impl<K, V> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Self { flying: Arc::clone(&self.flying) }
    }
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { flying: Arc::default() }
    }
}

#[derive(Debug)]
struct Flight<V> {
    landed: watch::Receiver<Option<V>>,
    cancel: CancellationToken,
    waiting: usize,
}

/// How a reader came to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It started the computation.
    Leader,
    /// It joined one.
    Follower,
}

/// The computation ended without a result: it panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the computation ended without a result")]
pub struct Lost;

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The result of `compute` for `key`, shared with everybody who asks for the key meanwhile.
    pub async fn join<F>(&self, key: K, compute: impl FnOnce() -> F) -> (Role, Result<V, Lost>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (role, mut landed, seat) = self.board(&key, compute);
        let result = match landed.wait_for(Option::is_some).await {
            Ok(value) => value.clone().ok_or(Lost),
            Err(_) => Err(Lost),
        };
        drop(seat);
        (role, result)
    }

    /// Starts `compute` for `key` with nobody waiting, unless it is under way. Tells whether it did. Must be called within
    /// a runtime; the computation is not cancelled.
    pub fn launch<F>(&self, key: &K, compute: impl FnOnce() -> F) -> bool
    where
        F: Future<Output = V> + Send + 'static,
    {
        if lock(&self.flying).contains_key(key) {
            return false;
        }
        let (role, mut landed, seat) = self.board(key, compute);
        if role == Role::Leader {
            tokio::spawn(async move {
                drop(landed.wait_for(Option::is_some).await);
                drop(seat);
            });
        }
        role == Role::Leader
    }

    fn board<F>(&self, key: &K, compute: impl FnOnce() -> F) -> (Role, watch::Receiver<Option<V>>, Seat<K, V>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut flying = lock(&self.flying);
        let seat =
            |cancel: &CancellationToken| Seat { flights: self.clone(), key: key.clone(), cancel: cancel.clone() };
        if let Some(flight) = flying.get_mut(key) {
            flight.waiting += 1;
            return (Role::Follower, flight.landed.clone(), seat(&flight.cancel));
        }
        let (land, landed) = watch::channel(None);
        let cancel = CancellationToken::new();
        flying.insert(key.clone(), Flight { landed: landed.clone(), cancel: cancel.clone(), waiting: 1 });
        let gone = Gone { flights: self.clone(), key: key.clone(), cancel: cancel.clone() };
        let (computation, cancelled) = (compute(), cancel.clone());
        tokio::spawn(async move {
            let result = tokio::select! {
                result = computation => Some(result),
                () = cancelled.cancelled() => None,
            };
            // Off the list first: who comes now must not join a flight that has landed.
            drop(gone);
            land.send_replace(result);
        });
        (Role::Leader, landed, seat(&cancel))
    }

    /// The key of a computation under way that `is_meant`.
    pub fn find(&self, is_meant: impl Fn(&K) -> bool) -> Option<K> {
        lock(&self.flying).keys().find(|key| is_meant(key)).cloned()
    }

    /// Computations under way.
    pub fn count(&self) -> usize {
        lock(&self.flying).len()
    }
}

impl<K: Eq + Hash, V> Flights<K, V> {
    /// Removes the flight that `cancel` belongs to, if it is still the one under that key.
    fn remove(flying: &mut HashMap<K, Flight<V>>, key: &K, cancel: &CancellationToken) {
        if flying.get(key).is_some_and(|flight| is_same(&flight.cancel, cancel)) {
            flying.remove(key);
        }
    }
}

/// Takes the flight off the list however its task ends.
struct Gone<K: Eq + Hash, V> {
    flights: Flights<K, V>,
    key: K,
    cancel: CancellationToken,
}

impl<K: Eq + Hash, V> Drop for Gone<K, V> {
    fn drop(&mut self) {
        Flights::remove(&mut lock(&self.flights.flying), &self.key, &self.cancel);
    }
}

/// A reader that waits. Dropping the last one cancels the flight; under the lock, so nobody can join in between.
struct Seat<K: Eq + Hash, V> {
    flights: Flights<K, V>,
    key: K,
    cancel: CancellationToken,
}

impl<K: Eq + Hash, V> Drop for Seat<K, V> {
    fn drop(&mut self) {
        let mut flying = lock(&self.flights.flying);
        let Some(flight) = flying.get_mut(&self.key).filter(|flight| is_same(&flight.cancel, &self.cancel)) else {
            return;
        };
        flight.waiting -= 1;
        if flight.waiting == 0 {
            flight.cancel.cancel();
            flying.remove(&self.key);
        }
    }
}

fn is_same(one: &CancellationToken, other: &CancellationToken) -> bool {
    one == other
}

/// The map is whole between any two statements under the lock, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::{Notify, oneshot};

    use super::*;

    type Outcome = Result<u32, &'static str>;

    #[tokio::test]
    async fn many_readers_cost_one_computation() {
        let flights: Flights<&str, Outcome> = Flights::default();
        let (computed, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let readers: Vec<_> = (0..500)
            .map(|_| {
                let (flights, computed, go) = (flights.clone(), computed.clone(), go.clone());
                tokio::spawn(async move {
                    flights
                        .join("k", || async move {
                            computed.fetch_add(1, Ordering::SeqCst);
                            go.notified().await;
                            Ok(7)
                        })
                        .await
                })
            })
            .collect();
        while lock(&flights.flying).get("k").is_none_or(|flight| flight.waiting < 500) {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        let mut leaders = 0;
        for reader in readers {
            let (role, result) = reader.await.unwrap();
            assert_eq!(result, Ok(Ok(7)));
            leaders += usize::from(role == Role::Leader);
        }
        assert_eq!((leaders, computed.load(Ordering::SeqCst), flights.count()), (1, 1, 0));
    }

    #[tokio::test]
    async fn the_leader_may_leave_as_long_as_somebody_waits() {
        let flights: Flights<&str, Outcome> = Flights::default();
        let go = Arc::new(Notify::new());
        let wait = |go: Arc<Notify>| {
            let flights = flights.clone();
            tokio::spawn(async move {
                flights
                    .join("k", || async move {
                        go.notified().await;
                        Ok(1)
                    })
                    .await
                    .1
            })
        };
        let leader = wait(go.clone());
        while flights.count() == 0 {
            tokio::task::yield_now().await;
        }
        let follower = wait(go.clone());
        while lock(&flights.flying).get("k").is_some_and(|flight| flight.waiting < 2) {
            tokio::task::yield_now().await;
        }
        leader.abort();
        assert!(leader.await.is_err());
        go.notify_one();
        assert_eq!(follower.await.unwrap(), Ok(Ok(1)));
    }

    #[tokio::test]
    async fn the_last_one_to_leave_cancels() {
        struct SaysWhenDropped(Option<oneshot::Sender<()>>);
        impl Drop for SaysWhenDropped {
            fn drop(&mut self) {
                self.0.take().unwrap().send(()).unwrap();
            }
        }
        let flights: Flights<&str, Outcome> = Flights::default();
        let (dropped, was_dropped) = oneshot::channel();
        let guard = SaysWhenDropped(Some(dropped));
        let joining = flights.clone();
        let reader = tokio::spawn(async move {
            joining
                .join("k", || async move {
                    let _guard = guard;
                    std::future::pending().await
                })
                .await
        });
        while flights.count() == 0 {
            tokio::task::yield_now().await;
        }
        reader.abort();
        was_dropped.await.unwrap();
        assert_eq!(flights.count(), 0);
        let (role, result) = flights.join("k", || async { Ok(2) }).await;
        assert_eq!((role, result), (Role::Leader, Ok(Ok(2))));
    }

    #[tokio::test]
    async fn what_is_launched_lands_once_with_nobody_waiting() {
        let flights: Flights<&str, Outcome> = Flights::default();
        let go = Arc::new(Notify::new());
        let compute = |go: Arc<Notify>| async move {
            go.notified().await;
            Ok(4)
        };
        assert!(flights.launch(&"k", || compute(go.clone())));
        assert!(!flights.launch(&"k", || compute(go.clone())), "it is under way");
        go.notify_one();
        while flights.count() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(flights.launch(&"k", || async { Ok(5) }));
    }

    #[tokio::test]
    async fn failures_and_panics_are_not_remembered() {
        let flights: Flights<&str, Outcome> = Flights::default();
        assert_eq!(flights.join("k", || async { Err("broken") }).await.1, Ok(Err("broken")));
        assert_eq!(flights.join("k", || async { panic!("on purpose") }).await.1, Err(Lost));
        assert_eq!(flights.join("k", || async { Ok(3) }).await.1, Ok(Ok(3)));
    }
}
