//! Single flight: requests for the same key share one computation.
//!
//! A computation runs in its own task, so it outlives the request that started it as long as anybody waits. When the last
//! waiter leaves, the computation is cancelled. A failure goes to the current waiters only.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tallyhouse_service::trace;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The computations in flight, by key. Clones share them.
#[derive(Debug)]
pub struct SingleFlight<K, V> {
    in_flight: Arc<Mutex<HashMap<K, InFlight<V>>>>,
}

impl<K, V> Clone for SingleFlight<K, V> {
    fn clone(&self) -> Self {
        Self { in_flight: Arc::clone(&self.in_flight) }
    }
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self { in_flight: Arc::default() }
    }
}

#[derive(Debug)]
struct InFlight<V> {
    outcome: watch::Receiver<Option<V>>,
    cancel: CancellationToken,
    waiting: usize,
}

/// How a caller got its result.
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

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The result of `compute` for `key`, shared with everybody who asks for the key meanwhile.
    pub async fn join<F>(&self, key: K, compute: impl FnOnce() -> F) -> (Role, Result<V, Lost>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (role, mut outcome, waiter) = self.join_or_start(&key, compute);
        let result = match outcome.wait_for(Option::is_some).await {
            Ok(value) => value.clone().ok_or(Lost),
            Err(_) => Err(Lost),
        };
        drop(waiter);
        (role, result)
    }

    /// Starts `compute` for `key` with nobody waiting, unless it is in flight. Returns whether it did. Must be called within
    /// a runtime; the computation is not cancelled.
    pub fn launch<F>(&self, key: &K, compute: impl FnOnce() -> F) -> bool
    where
        F: Future<Output = V> + Send + 'static,
    {
        if lock(&self.in_flight).contains_key(key) {
            return false;
        }
        let (role, mut outcome, waiter) = self.join_or_start(key, compute);
        if role == Role::Leader {
            tokio::spawn(async move {
                drop(outcome.wait_for(Option::is_some).await);
                drop(waiter);
            });
        }
        role == Role::Leader
    }

    fn join_or_start<F>(&self, key: &K, compute: impl FnOnce() -> F) -> (Role, watch::Receiver<Option<V>>, Waiter<K, V>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut in_flight = lock(&self.in_flight);
        let waiter = |cancel: &CancellationToken| Waiter {
            single_flight: self.clone(),
            key: key.clone(),
            cancel: cancel.clone(),
        };
        if let Some(computation) = in_flight.get_mut(key) {
            computation.waiting += 1;
            return (Role::Follower, computation.outcome.clone(), waiter(&computation.cancel));
        }
        let (publish, outcome) = watch::channel(None);
        let cancel = CancellationToken::new();
        in_flight.insert(key.clone(), InFlight { outcome: outcome.clone(), cancel: cancel.clone(), waiting: 1 });
        let on_end = RemoveOnDrop { single_flight: self.clone(), key: key.clone(), cancel: cancel.clone() };
        let (work, cancelled) = (trace::carried(compute()), cancel.clone());
        tokio::spawn(async move {
            let result = tokio::select! {
                result = work => Some(result),
                () = cancelled.cancelled() => None,
            };
            // Removed first: a new caller must not join a computation that has ended.
            drop(on_end);
            publish.send_replace(result);
        });
        (Role::Leader, outcome, waiter(&cancel))
    }

    /// The key of a computation in flight that `is_meant`.
    pub fn find(&self, is_meant: impl Fn(&K) -> bool) -> Option<K> {
        lock(&self.in_flight).keys().find(|key| is_meant(key)).cloned()
    }

    /// How many computations are in flight.
    pub fn count(&self) -> usize {
        lock(&self.in_flight).len()
    }
}

impl<K: Eq + Hash, V> SingleFlight<K, V> {
    /// Removes the computation that `cancel` belongs to, if it is still the one under that key.
    fn remove(in_flight: &mut HashMap<K, InFlight<V>>, key: &K, cancel: &CancellationToken) {
        if in_flight.get(key).is_some_and(|computation| is_same(&computation.cancel, cancel)) {
            in_flight.remove(key);
        }
    }
}

/// Removes the computation however its task ends.
struct RemoveOnDrop<K: Eq + Hash, V> {
    single_flight: SingleFlight<K, V>,
    key: K,
    cancel: CancellationToken,
}

impl<K: Eq + Hash, V> Drop for RemoveOnDrop<K, V> {
    fn drop(&mut self) {
        SingleFlight::remove(&mut lock(&self.single_flight.in_flight), &self.key, &self.cancel);
    }
}

/// A caller that waits. Dropping the last one cancels the computation, under the lock, so that nobody joins in between.
struct Waiter<K: Eq + Hash, V> {
    single_flight: SingleFlight<K, V>,
    key: K,
    cancel: CancellationToken,
}

impl<K: Eq + Hash, V> Drop for Waiter<K, V> {
    fn drop(&mut self) {
        let mut in_flight = lock(&self.single_flight.in_flight);
        let Some(computation) =
            in_flight.get_mut(&self.key).filter(|computation| is_same(&computation.cancel, &self.cancel))
        else {
            return;
        };
        computation.waiting -= 1;
        if computation.waiting == 0 {
            computation.cancel.cancel();
            in_flight.remove(&self.key);
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
        let single_flight: SingleFlight<&str, Outcome> = SingleFlight::default();
        let (computed, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let readers: Vec<_> = (0..500)
            .map(|_| {
                let (single_flight, computed, go) = (single_flight.clone(), computed.clone(), go.clone());
                tokio::spawn(async move {
                    single_flight
                        .join("k", || async move {
                            computed.fetch_add(1, Ordering::SeqCst);
                            go.notified().await;
                            Ok(7)
                        })
                        .await
                })
            })
            .collect();
        while lock(&single_flight.in_flight).get("k").is_none_or(|computation| computation.waiting < 500) {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        let mut leaders = 0;
        for reader in readers {
            let (role, result) = reader.await.unwrap();
            assert_eq!(result, Ok(Ok(7)));
            leaders += usize::from(role == Role::Leader);
        }
        assert_eq!((leaders, computed.load(Ordering::SeqCst), single_flight.count()), (1, 1, 0));
    }

    #[tokio::test]
    async fn the_leader_may_leave_as_long_as_somebody_waits() {
        let single_flight: SingleFlight<&str, Outcome> = SingleFlight::default();
        let go = Arc::new(Notify::new());
        let wait = |go: Arc<Notify>| {
            let single_flight = single_flight.clone();
            tokio::spawn(async move {
                single_flight
                    .join("k", || async move {
                        go.notified().await;
                        Ok(1)
                    })
                    .await
                    .1
            })
        };
        let leader = wait(go.clone());
        while single_flight.count() == 0 {
            tokio::task::yield_now().await;
        }
        let follower = wait(go.clone());
        while lock(&single_flight.in_flight).get("k").is_some_and(|computation| computation.waiting < 2) {
            tokio::task::yield_now().await;
        }
        leader.abort();
        assert!(leader.await.is_err());
        go.notify_one();
        assert_eq!(follower.await.unwrap(), Ok(Ok(1)));
    }

    #[tokio::test]
    async fn the_last_one_to_leave_cancels() {
        struct SignalsDrop(Option<oneshot::Sender<()>>);
        impl Drop for SignalsDrop {
            fn drop(&mut self) {
                self.0.take().unwrap().send(()).unwrap();
            }
        }
        let single_flight: SingleFlight<&str, Outcome> = SingleFlight::default();
        let (dropped, was_dropped) = oneshot::channel();
        let guard = SignalsDrop(Some(dropped));
        let joining = single_flight.clone();
        let reader = tokio::spawn(async move {
            joining
                .join("k", || async move {
                    let _guard = guard;
                    std::future::pending().await
                })
                .await
        });
        while single_flight.count() == 0 {
            tokio::task::yield_now().await;
        }
        reader.abort();
        was_dropped.await.unwrap();
        assert_eq!(single_flight.count(), 0);
        let (role, result) = single_flight.join("k", || async { Ok(2) }).await;
        assert_eq!((role, result), (Role::Leader, Ok(Ok(2))));
    }

    #[tokio::test]
    async fn what_is_launched_lands_once_with_nobody_waiting() {
        let single_flight: SingleFlight<&str, Outcome> = SingleFlight::default();
        let go = Arc::new(Notify::new());
        let compute = |go: Arc<Notify>| async move {
            go.notified().await;
            Ok(4)
        };
        assert!(single_flight.launch(&"k", || compute(go.clone())));
        assert!(!single_flight.launch(&"k", || compute(go.clone())), "it is under way");
        go.notify_one();
        while single_flight.count() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(single_flight.launch(&"k", || async { Ok(5) }));
    }

    #[tokio::test]
    async fn failures_and_panics_are_not_remembered() {
        let single_flight: SingleFlight<&str, Outcome> = SingleFlight::default();
        assert_eq!(single_flight.join("k", || async { Err("broken") }).await.1, Ok(Err("broken")));
        assert_eq!(single_flight.join("k", || async { panic!("on purpose") }).await.1, Err(Lost));
        assert_eq!(single_flight.join("k", || async { Ok(3) }).await.1, Ok(Ok(3)));
    }
}
