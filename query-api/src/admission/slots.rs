//! The slots of one class: which queries run, which wait, and which are refused.
//!
//! ```text
//! enter -> a slot is free, and the project may hold one more? -> Slot
//!       -> queue (fair between projects) -> Slot | refused: share, queue, too long
//! Slot dropped -> given to the next in the queue
//! ```
//!
//! One project never holds every slot ([`Limits::slots_of_project`]): a project whose queries take long leaves one to the others.
//!
//! A slot is a value that is sent to the next waiter. A cancelled waiter passes its slot on; one that is cancelled earlier leaves
//! the queue. So no slot is lost and no waiter is forgotten: nobody waits while a slot is free that its project may hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tallyhouse_service::metrics::pools::PoolStatus;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::class::Limits;
use super::queue::{Capacity, FairQueue, Full, Ticket};

/// Why there is no slot, and when to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoSlot {
    pub(super) reason: Reason,
    /// When those who wait now have had a slot.
    pub(super) after: Duration,
}

/// What was full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The project's share of the queue.
    Share,
    Queue,
    /// The wait took too long.
    TimedOut,
}

/// How busy a gate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pressure {
    /// How long the first in the queue has waited.
    pub(super) oldest: Duration,
    /// When those who wait now have had a slot.
    pub(super) drains_in: Duration,
}

/// The slots of a class. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct ClassSlots {
    shared: Arc<SlotsShared>,
}

#[derive(Debug)]
struct SlotsShared {
    concurrency: usize,
    state: Mutex<SlotsState>,
}

#[derive(Debug)]
struct SlotsState {
    free: usize,
    /// Slots of one project at most.
    of_project: usize,
    /// Slots by project; of those that hold any.
    held: HashMap<String, usize>,
    queue: FairQueue<Waiter>,
    /// How long a slot is held, smoothed.
    held_for: Duration,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    slot: oneshot::Sender<Result<Slot, Reason>>,
}

/// The weight of the newest measurement among those of how long a slot is held: the last ten or so decide.
const NEWEST: u32 = 8;

impl ClassSlots {
    pub(super) fn new(limits: &Limits) -> Self {
        let capacity = Capacity { total: limits.queue, share: limits.share() };
        let state = SlotsState {
            free: limits.concurrency,
            of_project: limits.slots_of_project(),
            held: HashMap::new(),
            queue: FairQueue::new(capacity),
            held_for: Duration::ZERO,
        };
        Self { shared: Arc::new(SlotsShared { concurrency: limits.concurrency, state: Mutex::new(state) }) }
    }

    /// A slot, at once or after a wait. Dropping the future gives up the wait.
    pub(super) async fn enter(&self, project: &str, longest_wait: Duration) -> Result<Slot, NoSlot> {
        let mut waiting = match self.try_enter(project).map_err(|reason| self.refused(reason))? {
            EnterOutcome::Admitted(slot) => return Ok(slot),
            EnterOutcome::Queued(waiting) => waiting,
        };
        let reason = match tokio::time::timeout(longest_wait, &mut waiting.slot).await {
            Ok(Ok(Ok(slot))) => return Ok(slot),
            Ok(Ok(Err(reason))) => reason,
            // The sender lives in the queue and nowhere else, so only the longest wait can have ended here.
            Ok(Err(_)) | Err(_) => Reason::TimedOut,
        };
        Err(self.refused(reason))
    }

    /// For metrics.
    pub(super) fn status(&self) -> PoolStatus {
        let (size, state) = (self.shared.concurrency, self.shared.lock());
        PoolStatus { size, in_use: size.saturating_sub(state.free), idle: None, waiting: state.queue.len() }
    }

    /// How busy it is.
    pub(super) fn pressure(&self) -> Pressure {
        let state = self.shared.lock();
        let oldest = state.queue.heads().map(|waiter| waiter.since.elapsed()).max().unwrap_or_default();
        Pressure { oldest, drains_in: self.shared.drains_in(&state) }
    }

    fn try_enter(&self, project: &str) -> Result<EnterOutcome, Reason> {
        let mut state = self.shared.lock();
        // Who waits already and could take it would have it.
        if state.take(project) {
            return Ok(EnterOutcome::Admitted(Slot::new(&self.shared, project)));
        }
        let (slot, receiver) = oneshot::channel();
        let waiter = Waiter { since: Instant::now(), slot };
        let (ticket, evicted) = state.queue.push(project, waiter).map_err(|full| match full {
            Full::Share => Reason::Share,
            Full::Queue => Reason::Queue,
        })?;
        drop(state);
        if let Some(evicted) = evicted {
            evicted.refuse(Reason::Share);
        }
        Ok(EnterOutcome::Queued(Waiting { shared: Arc::clone(&self.shared), ticket, slot: receiver }))
    }

    fn refused(&self, reason: Reason) -> NoSlot {
        NoSlot { reason, after: self.pressure().drains_in }
    }
}

impl SlotsShared {
    fn lock(&self) -> MutexGuard<'_, SlotsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Little's law: as many as wait, and one more, at the rate at which slots come back.
    fn drains_in(&self, state: &SlotsState) -> Duration {
        let waiting = u32::try_from(state.queue.len() + 1).unwrap_or(u32::MAX);
        let slots = u32::try_from(self.concurrency).unwrap_or(u32::MAX).max(1);
        state.held_for.saturating_mul(waiting) / slots
    }
}

impl Waiter {
    /// The waiter may be gone; then nothing is sent.
    fn refuse(self, reason: Reason) {
        drop(self.slot.send(Err(reason)));
    }
}

enum EnterOutcome {
    Admitted(Slot),
    Queued(Waiting),
}

/// A wait. Dropped, it leaves the queue; a slot that was sent meanwhile is dropped with the receiver.
struct Waiting {
    shared: Arc<SlotsShared>,
    ticket: Ticket,
    slot: oneshot::Receiver<Result<Slot, Reason>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let gone = self.shared.lock().queue.remove(&self.ticket);
        drop(gone);
    }
}

/// A running query's slot; dropped, it goes to the next waiter.
#[derive(Debug)]
pub(super) struct Slot {
    /// `None` once it was handed on.
    shared: Option<Arc<SlotsShared>>,
    project: String,
    since: Instant,
}

impl Slot {
    fn new(shared: &Arc<SlotsShared>, project: &str) -> Self {
        Self { shared: Some(Arc::clone(shared)), project: project.to_owned(), since: Instant::now() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        let mut returned = std::mem::take(&mut self.project);
        shared.lock().measured(self.since.elapsed());
        // A loop, not a slot dropped by a failed send: that would nest as deep as the queue is long.
        loop {
            let next = {
                let mut state = shared.lock();
                state.give_back(&returned);
                state.next()
            };
            let Some((project, waiter)) = next else { return };
            match waiter.slot.send(Ok(Self::new(&shared, &project))) {
                Ok(()) => return,
                Err(unsent) => {
                    if let Ok(mut slot) = unsent {
                        slot.shared = None;
                    }
                    returned = project;
                }
            }
        }
    }
}

impl SlotsState {
    fn measured(&mut self, held_for: Duration) {
        self.held_for =
            if self.held_for.is_zero() { held_for } else { (self.held_for * (NEWEST - 1) + held_for) / NEWEST };
    }

    /// Takes a slot for a project, if there is one that it may hold.
    fn take(&mut self, project: &str) -> bool {
        let held = self.held.get(project).copied().unwrap_or_default();
        if self.free == 0 || held >= self.of_project {
            return false;
        }
        self.free -= 1;
        self.held.insert(project.to_owned(), held + 1);
        true
    }

    fn give_back(&mut self, project: &str) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(project) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(project);
            }
        }
    }

    /// Takes a slot for whoever is next. One that comes back lets one waiter in: its own project's, or another's.
    fn next(&mut self) -> Option<(String, Waiter)> {
        if self.free == 0 {
            return None;
        }
        let (held, of_project) = (&self.held, self.of_project);
        let may_hold = |project: &str| {
            let held = held.get(project).copied().unwrap_or_default();
            (held < of_project).then_some(held)
        };
        let (project, waiter) = self.queue.pop(may_hold)?;
        self.take(&project);
        Some((project, waiter))
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

    fn slots(concurrency: usize, queue: usize) -> ClassSlots {
        ClassSlots::new(&Limits { concurrency, queue, deadline: Duration::from_secs(10) })
    }

    impl ClassSlots {
        async fn enter_soon(&self, project: &str) -> Result<Slot, NoSlot> {
            self.enter(project, Duration::from_secs(5)).await
        }

        /// Whether whoever waits is of a project that holds as much as it may, or no slot is free.
        fn nobody_could_enter(&self) -> bool {
            let mut state = self.shared.lock();
            state.next().is_none()
        }

        fn free_and_waiting(&self) -> (usize, usize) {
            let state = self.shared.lock();
            (state.free, state.queue.len())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_a_place_or_when_it_took_too_long() {
        let slots = slots(1, 4);
        let first = slots.enter_soon("a").await.unwrap();
        let began = Instant::now();
        assert_eq!(slots.enter_soon("a").await.unwrap_err().reason, Reason::TimedOut);
        assert_eq!((began.elapsed(), slots.free_and_waiting()), (Duration::from_secs(5), (0, 0)));
        let (second, ()) = tokio::join!(slots.enter_soon("a"), async { drop(first) });
        assert!(second.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_learns_how_long_the_queue_takes() {
        let slots = slots(2, 8);
        let held = [slots.enter_soon("a").await.unwrap(), slots.enter_soon("b").await.unwrap()];
        tokio::time::advance(Duration::from_secs(4)).await;
        drop(held);
        let _held = [slots.enter_soon("a").await.unwrap(), slots.enter_soon("b").await.unwrap()];
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn({
                    let slots = slots.clone();
                    async move { slots.enter_soon("a").await.map(drop) }
                })
            })
            .collect();
        while slots.free_and_waiting().1 < 4 {
            tokio::task::yield_now().await;
        }
        // Four wait and this one would be the fifth; two slots, four seconds each.
        let refused = slots.enter_soon("a").await.unwrap_err();
        assert_eq!(refused, NoSlot { reason: Reason::Share, after: Duration::from_secs(10) });
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn one_project_never_holds_every_slot_while_another_waits() {
        let slots = slots(3, 16);
        let mut held = vec![slots.enter_soon("a").await.unwrap(), slots.enter_soon("a").await.unwrap()];
        assert_eq!(slots.enter_soon("a").await.unwrap_err().reason, Reason::TimedOut, "the last is for others");
        let began = Instant::now();
        held.push(slots.enter_soon("b").await.unwrap());
        assert_eq!(began.elapsed(), Duration::ZERO);
        // Both wait; the slot that comes back is of whoever holds less then.
        let enter = |project: &'static str| {
            let slots = slots.clone();
            tokio::spawn(async move { slots.enter_soon(project).await })
        };
        let (first, second) = (enter("a"), enter("c"));
        while slots.free_and_waiting().1 < 2 {
            tokio::task::yield_now().await;
        }
        drop(held.remove(0));
        let c = second.await.unwrap().unwrap();
        drop(held.remove(0));
        let a = first.await.unwrap().unwrap();
        assert_eq!(["a", "b", "c"], [&a, &held[0], &c].map(|slot| slot.project.as_str()));
    }

    #[tokio::test]
    async fn who_gives_way_in_a_full_queue_is_told_that_it_was_its_share() {
        let slots = slots(1, 3);
        let held = slots.enter_soon("a").await.unwrap();
        let enter = |project: &'static str| {
            let slots = slots.clone();
            tokio::spawn(async move { slots.enter_soon(project).await })
        };
        let greedy = [enter("a"), enter("a")];
        while slots.free_and_waiting().1 < 2 {
            tokio::task::yield_now().await;
        }
        let third = enter("b");
        while slots.free_and_waiting().1 < 3 {
            tokio::task::yield_now().await;
        }
        let fourth = enter("c");
        let [first, second] = greedy;
        assert_eq!(second.await.unwrap().unwrap_err().reason, Reason::Share);
        drop(held);
        for waiting in [first, third, fourth] {
            drop(waiting.await.unwrap().unwrap());
        }
        assert_eq!(slots.free_and_waiting(), (1, 0));
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

    /// Many tasks, many of them aborted at any point: afterwards every slot is back, and meanwhile there were never more.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_place_is_lost_between_threads() {
        let (slots, running) = (slots(3, 1_000), Arc::new(AtomicUsize::new(0)));
        for round in 0..20_usize {
            let tasks: Vec<_> = (0..100_usize)
                .map(|n| {
                    let (slots, running) = (slots.clone(), Arc::clone(&running));
                    tokio::spawn(async move {
                        let _slot = slots.enter_soon(["a", "b", "c"][n % 3]).await.unwrap();
                        // Dropped before the slot, also when aborted.
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
            assert_eq!(slots.free_and_waiting(), (3, 0));
        }
    }

    type Entering = Pin<Box<dyn Future<Output = Result<Slot, NoSlot>>>>;

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

    fn poll(entering: &mut Entering) -> Poll<Result<Slot, NoSlot>> {
        entering.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    proptest! {
        /// Every interleaving of coming, being polled, giving up (before, between and after the slot was sent) and
        /// leaving: nobody waits while a slot is free, and in the end all slots are.
        #[test]
        fn no_place_is_lost_and_nobody_forgotten(ops in ops()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let _entered = runtime.enter();
            let slots = slots(3, 6);
            let (mut entering, mut inside): (Vec<Entering>, Vec<Slot>) = Default::default();
            for op in ops {
                match op {
                    Op::Enter(project) => {
                        let slots = slots.clone();
                        entering.push(Box::pin(async move { slots.enter_soon(["a", "b", "c"][project]).await }));
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
                let free = slots.free_and_waiting().0;
                prop_assert!(slots.nobody_could_enter(), "somebody waits for a slot that is free");
                prop_assert!(inside.len() + free <= 3);
                let of_project = |name: &str| inside.iter().filter(|slot: &&Slot| slot.project == name).count();
                prop_assert!(["a", "b", "c"].into_iter().all(|name| of_project(name) <= 2), "one project holds all");
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
            prop_assert_eq!(slots.free_and_waiting(), (3, 0));
        }
    }
}
