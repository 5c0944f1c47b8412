//! The places of one class: who may run now, who waits, and who is told to come back.
//!
//! ```text
//! enter -> a place is free? -> Place
//!       -> queue (fair between projects) -> Place | refused: share, queue, too long
//! Place dropped -> the next in the queue has it
//! ```
//!
//! A place travels by value: it is sent to whoever waits. Whoever goes away meanwhile drops what was sent, which gives it to
//! the next; whoever goes away earlier is taken out of the queue. So no place is lost and no waiter is forgotten: nobody
//! waits while a place is free.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::class::Limits;
use super::queue::{Capacity, FairQueue, Full, Ticket};

/// Why nobody was let in, and when it is worth coming back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// Why.
    pub(super) reason: Reason,
    /// In how long those who wait now have had their turn.
    pub(super) after: Duration,
}

/// What was full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The project's share of the queue.
    Share,
    /// The queue.
    Queue,
    /// The wait took too long.
    TimedOut,
}

/// How busy a gate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pressure {
    /// How long the first in the queue has waited.
    pub(super) oldest: Duration,
    /// In how long those who wait now have had their turn.
    pub(super) drains_in: Duration,
}

/// The places of a class. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    concurrency: usize,
    longest_wait: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    queue: FairQueue<Waiter>,
    /// How long a place is held, smoothed.
    held: Duration,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    turn: oneshot::Sender<Result<Place, Reason>>,
}

/// The weight of the newest measurement among those of how long a place is held: the last ten or so decide.
const NEWEST: u32 = 8;

impl Gate {
    pub(super) fn new(limits: &Limits) -> Self {
        let capacity = Capacity { total: limits.queue, share: limits.share() };
        let state = State { free: limits.concurrency, queue: FairQueue::new(capacity), held: Duration::ZERO };
        let shared =
            Shared { concurrency: limits.concurrency, longest_wait: limits.longest_wait(), state: Mutex::new(state) };
        Self { shared: Arc::new(shared) }
    }

    /// A place, at once or after a wait. Dropping the future gives up the wait.
    pub(super) async fn enter(&self, project: &str) -> Result<Place, Refused> {
        let mut waiting = match self.arrive(project).map_err(|reason| self.refused(reason))? {
            Arrival::Admitted(place) => return Ok(place),
            Arrival::Queued(waiting) => waiting,
        };
        let reason = match tokio::time::timeout(self.shared.longest_wait, &mut waiting.turn).await {
            Ok(Ok(Ok(place))) => return Ok(place),
            Ok(Ok(Err(reason))) => reason,
            // The sender lives in the queue and nowhere else, so only the longest wait can have ended here.
            Ok(Err(_)) | Err(_) => Reason::TimedOut,
        };
        Err(self.refused(reason))
    }

    /// How busy it is.
    pub(super) fn pressure(&self) -> Pressure {
        let state = self.shared.lock();
        let oldest = state.queue.heads().map(|waiter| waiter.since.elapsed()).max().unwrap_or_default();
        Pressure { oldest, drains_in: self.shared.drains_in(&state) }
    }

    fn arrive(&self, project: &str) -> Result<Arrival, Reason> {
        let mut state = self.shared.lock();
        if state.free > 0 {
            state.free -= 1;
            return Ok(Arrival::Admitted(Place::new(&self.shared)));
        }
        let (turn, receiver) = oneshot::channel();
        let waiter = Waiter { since: Instant::now(), turn };
        let (ticket, evicted) = state.queue.push(project, waiter).map_err(|full| match full {
            Full::Share => Reason::Share,
            Full::Queue => Reason::Queue,
        })?;
        drop(state);
        if let Some(evicted) = evicted {
            evicted.refuse(Reason::Share);
        }
        Ok(Arrival::Queued(Waiting { shared: Arc::clone(&self.shared), ticket, turn: receiver }))
    }

    fn refused(&self, reason: Reason) -> Refused {
        Refused { reason, after: self.pressure().drains_in }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Little's law: as many as wait, and one more, at the rate at which places come back.
    fn drains_in(&self, state: &State) -> Duration {
        let turns = u32::try_from(state.queue.len() + 1).unwrap_or(u32::MAX);
        let places = u32::try_from(self.concurrency).unwrap_or(u32::MAX).max(1);
        state.held.saturating_mul(turns) / places
    }
}

impl Waiter {
    /// It may have gone away; then there is nobody to tell.
    fn refuse(self, reason: Reason) {
        drop(self.turn.send(Err(reason)));
    }
}

enum Arrival {
    Admitted(Place),
    Queued(Waiting),
}

/// A wait. Dropped, it leaves the queue; a place that was sent meanwhile is dropped with the receiver.
struct Waiting {
    shared: Arc<Shared>,
    ticket: Ticket,
    turn: oneshot::Receiver<Result<Place, Reason>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let gone = self.shared.lock().queue.remove(&self.ticket);
        drop(gone);
    }
}

/// The right to run one query; dropped, it is the next one's.
#[derive(Debug)]
pub(super) struct Place {
    /// `None` once it was handed on.
    shared: Option<Arc<Shared>>,
    since: Instant,
}

impl Place {
    fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Some(Arc::clone(shared)), since: Instant::now() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        shared.lock().measured(self.since.elapsed());
        // A loop, not a place dropped by a failed send: that would nest as deep as the queue is long.
        loop {
            let next = {
                let mut state = shared.lock();
                let next = state.queue.pop();
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some(waiter) = next else { return };
            match waiter.turn.send(Ok(Self::new(&shared))) {
                Ok(()) => return,
                Err(unsent) => {
                    if let Ok(mut place) = unsent {
                        place.shared = None;
                    }
                }
            }
        }
    }
}

impl State {
    fn measured(&mut self, held: Duration) {
        self.held = if self.held.is_zero() { held } else { (self.held * (NEWEST - 1) + held) / NEWEST };
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    fn gate(concurrency: usize, queue: usize) -> Gate {
        Gate::new(&Limits { concurrency, queue, deadline: Duration::from_secs(10) })
    }

    impl Gate {
        fn free_and_waiting(&self) -> (usize, usize) {
            let state = self.shared.lock();
            (state.free, state.queue.len())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_a_place_or_when_it_took_too_long() {
        let gate = gate(1, 4);
        let first = gate.enter("a").await.unwrap();
        let began = Instant::now();
        assert_eq!(gate.enter("a").await.unwrap_err().reason, Reason::TimedOut);
        assert_eq!((began.elapsed(), gate.free_and_waiting()), (Duration::from_secs(5), (0, 0)));
        let (second, ()) = tokio::join!(gate.enter("a"), async { drop(first) });
        assert!(second.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_learns_how_long_the_queue_takes() {
        let gate = gate(2, 8);
        let held = [gate.enter("a").await.unwrap(), gate.enter("a").await.unwrap()];
        tokio::time::advance(Duration::from_secs(4)).await;
        drop(held);
        let _held = [gate.enter("a").await.unwrap(), gate.enter("a").await.unwrap()];
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn({
                    let gate = gate.clone();
                    async move { gate.enter("a").await.map(drop) }
                })
            })
            .collect();
        while gate.free_and_waiting().1 < 4 {
            tokio::task::yield_now().await;
        }
        // Four wait and this one would be the fifth; two places, four seconds each.
        let refused = gate.enter("a").await.unwrap_err();
        assert_eq!(refused, Refused { reason: Reason::Share, after: Duration::from_secs(10) });
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn who_gives_way_in_a_full_queue_is_told_that_it_was_its_share() {
        let gate = gate(1, 3);
        let held = gate.enter("a").await.unwrap();
        let enter = |project: &'static str| {
            let gate = gate.clone();
            tokio::spawn(async move { gate.enter(project).await })
        };
        let greedy = [enter("a"), enter("a")];
        while gate.free_and_waiting().1 < 2 {
            tokio::task::yield_now().await;
        }
        let third = enter("b");
        while gate.free_and_waiting().1 < 3 {
            tokio::task::yield_now().await;
        }
        let fourth = enter("c");
        let [first, second] = greedy;
        assert_eq!(second.await.unwrap().unwrap_err().reason, Reason::Share);
        drop(held);
        for waiting in [first, third, fourth] {
            drop(waiting.await.unwrap().unwrap());
        }
        assert_eq!(gate.free_and_waiting(), (1, 0));
    }

    struct Counted(Arc<AtomicUsize>);

    impl Counted {
        fn new(running: &Arc<AtomicUsize>) -> Self {
            assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
            Self(Arc::clone(running))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Many tasks, many of them aborted at any point: afterwards every place is back, and meanwhile there were never more.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_place_is_lost_between_threads() {
        let (gate, running) = (gate(3, 1_000), Arc::new(AtomicUsize::new(0)));
        for round in 0..20_usize {
            let tasks: Vec<_> = (0..100_usize)
                .map(|n| {
                    let (gate, running) = (gate.clone(), Arc::clone(&running));
                    tokio::spawn(async move {
                        let _place = gate.enter(["a", "b", "c"][n % 3]).await.unwrap();
                        // Dropped before the place, also when aborted.
                        let _counted = Counted::new(&running);
                        tokio::task::yield_now().await;
                    })
                })
                .collect();
            for (n, task) in tasks.into_iter().enumerate() {
                if (n + round) % 4 == 0 {
                    task.abort();
                }
                assert!(task.await.is_ok() || (n + round) % 4 == 0);
            }
            assert_eq!(gate.free_and_waiting(), (3, 0));
        }
    }

    type Entering = Pin<Box<dyn Future<Output = Result<Place, Refused>>>>;

    #[derive(Debug, Clone)]
    enum Op {
        Enter(usize),
        Poll(prop::sample::Index),
        GiveUp(prop::sample::Index),
        Leave(prop::sample::Index),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let index = any::<prop::sample::Index>;
        let op = prop_oneof![
            4 => (0..3_usize).prop_map(Op::Enter),
            4 => index().prop_map(Op::Poll),
            2 => index().prop_map(Op::GiveUp),
            3 => index().prop_map(Op::Leave),
        ];
        prop::collection::vec(op, 0..120)
    }

    fn poll(entering: &mut Entering) -> Poll<Result<Place, Refused>> {
        entering.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    proptest! {
        /// Every interleaving of coming, being polled, giving up (before, between and after the place was sent) and
        /// leaving: nobody waits while a place is free, and in the end all places are.
        #[test]
        fn no_place_is_lost_and_nobody_forgotten(ops in ops()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let _entered = runtime.enter();
            let gate = gate(2, 6);
            let (mut entering, mut inside): (Vec<Entering>, Vec<Place>) = Default::default();
            for op in ops {
                match op {
                    Op::Enter(project) => {
                        let gate = gate.clone();
                        entering.push(Box::pin(async move { gate.enter(["a", "b", "c"][project]).await }));
                    }
                    Op::Poll(index) if !entering.is_empty() => {
                        let at = index.index(entering.len());
                        if let Poll::Ready(result) = poll(&mut entering[at]) {
                            drop(entering.remove(at));
                            inside.extend(result);
                        }
                    }
                    Op::GiveUp(index) if !entering.is_empty() => drop(entering.remove(index.index(entering.len()))),
                    Op::Leave(index) if !inside.is_empty() => drop(inside.remove(index.index(inside.len()))),
                    Op::Poll(_) | Op::GiveUp(_) | Op::Leave(_) => {}
                }
                let (free, waiting) = gate.free_and_waiting();
                prop_assert!(free == 0 || waiting == 0, "{waiting} wait for {free} free places");
                prop_assert!(inside.len() + free <= 2);
            }
            // Whoever still waits is served, one after the other.
            while !entering.is_empty() {
                inside.clear();
                let before = entering.len();
                for mut one in std::mem::take(&mut entering) {
                    match poll(&mut one) {
                        Poll::Ready(result) => inside.extend(result),
                        Poll::Pending => entering.push(one),
                    }
                }
                prop_assert!(entering.len() < before, "nobody moves");
            }
            drop(inside);
            prop_assert_eq!(gate.free_and_waiting(), (2, 0));
        }
    }
}
