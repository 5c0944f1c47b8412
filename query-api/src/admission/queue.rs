//! The fair queue of a class: the project that holds the fewest slots is next, round robin between equals; first come, first
//! served within one.
//!
//! ```text
//! push -> [project A: 1 2 3] [project B: 4] -> pop: 1, 4, 2, 3
//! ```
//!
//! A project that holds as many as it may is passed over. A project that waits for one slot is delayed by at most one query of each other project, however many those wait for. When
//! the queue is full, a project that waits for less evicts the newest query of the project that waits for most, so a greedy
//! project cannot close the queue to others.

use std::collections::{HashMap, VecDeque};

/// How many may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    /// In all.
    pub(super) total: usize,
    /// Of one project.
    pub(super) share: usize,
}

/// Why somebody may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The project waits for enough already.
    Share,
    /// Everybody does.
    Queue,
}

/// An entry of the queue; valid until it is popped, removed or evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ticket {
    project: String,
    number: u64,
}

/// Who waits, by project.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    capacity: Capacity,
    waiting: HashMap<String, VecDeque<(u64, T)>>,
    /// The projects that wait, the next to be served first; each once.
    round: VecDeque<String>,
    len: usize,
    next: u64,
}

impl<T> FairQueue<T> {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self { capacity, waiting: HashMap::new(), round: VecDeque::new(), len: 0, next: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Queues an item of `project`; returns also the item that it evicted.
    pub(super) fn push(&mut self, project: &str, item: T) -> Result<(Ticket, Option<T>), Full> {
        let mine = self.waiting.get(project).map_or(0, VecDeque::len);
        if mine >= self.capacity.share {
            return Err(Full::Share);
        }
        let evicted = if self.len >= self.capacity.total { Some(self.evict(mine)?) } else { None };
        let number = self.next;
        self.next += 1;
        self.len += 1;
        let line = self.waiting.entry(project.to_owned()).or_default();
        if line.is_empty() {
            self.round.push_back(project.to_owned());
        }
        line.push_back((number, item));
        Ok((Ticket { project: project.to_owned(), number }, evicted))
    }

    /// The item that is next, and its project. `held` says how many slots a project holds, or `None` when it may hold no more.
    pub(super) fn pop(&mut self, held: impl Fn(&str) -> Option<usize>) -> Option<(String, T)> {
        let turns = self.round.iter().enumerate();
        let (_, place) = turns.filter_map(|(place, project)| Some((held(project)?, place))).min()?;
        let project = self.round.remove(place)?;
        let line = self.waiting.get_mut(&project)?;
        let (_, item) = line.pop_front()?;
        self.len -= 1;
        if line.is_empty() {
            self.waiting.remove(&project);
        } else {
            self.round.push_back(project.clone());
        }
        Some((project, item))
    }

    /// The item of this ticket, taken out of the queue; `None` when it was popped already.
    pub(super) fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        let line = self.waiting.get_mut(&ticket.project)?;
        let at = line.iter().position(|(number, _)| *number == ticket.number)?;
        let (_, item) = line.remove(at)?;
        self.len -= 1;
        if line.is_empty() {
            self.leave(&ticket.project);
        }
        Some(item)
    }

    /// The first of every project; among them is whoever has waited longest.
    pub(super) fn heads(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().filter_map(|line| line.front().map(|(_, item)| item))
    }

    /// Takes the newest of the project that waits for most, if that leaves it with no less than a project that waits
    /// for `mine` and comes.
    fn evict(&mut self, mine: usize) -> Result<T, Full> {
        let longest = self.waiting.iter().max_by_key(|(_, line)| line.len());
        let project = longest.filter(|(_, line)| line.len() > mine + 1).map(|(project, _)| project.clone());
        let line = project.and_then(|project| self.waiting.get_mut(&project));
        let (_, item) = line.and_then(VecDeque::pop_back).ok_or(Full::Queue)?;
        self.len -= 1;
        Ok(item)
    }

    fn leave(&mut self, project: &str) {
        self.waiting.remove(project);
        self.round.retain(|waiting| waiting != project);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(total: usize, share: usize) -> FairQueue<u32> {
        FairQueue::new(Capacity { total, share })
    }

    fn drained(mut queue: FairQueue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(|_| Some(0))).map(|(_, item)| item).collect()
    }

    #[test]
    fn one_request_waits_for_one_query_of_a_project_with_a_thousand() {
        let mut queue = queue(2_000, 1_000);
        for item in 0..1_000 {
            queue.push("greedy", item).unwrap();
        }
        queue.push("modest", 5_000).unwrap();
        assert_eq!(drained(queue)[..3], [0, 5_000, 1]);
    }

    #[test]
    fn the_project_that_holds_least_is_next_and_one_that_holds_enough_is_passed_over() {
        let mut queue = queue(9, 3);
        for (project, item) in [("a", 1), ("b", 2), ("c", 3), ("c", 4)] {
            queue.push(project, item).unwrap();
        }
        let mut pop = |held: [Option<usize>; 3]| {
            let of = |project: &str| held[["a", "b", "c"].iter().position(|name| *name == project).unwrap()];
            queue.pop(of).map(|(_, item)| item)
        };
        assert_eq!(pop([Some(2), Some(1), Some(0)]), Some(3));
        assert_eq!(pop([None, Some(1), Some(1)]), Some(2));
        assert_eq!(pop([None, Some(1), None]), None, "b does not wait any more");
        assert_eq!(pop([Some(2), Some(2), Some(2)]), Some(1), "first come, first served");
    }

    #[test]
    fn a_share_is_a_project_s_own_limit() {
        let mut queue = queue(4, 2);
        queue.push("a", 1).unwrap();
        queue.push("a", 2).unwrap();
        assert_eq!(queue.push("a", 3).unwrap_err(), Full::Share);
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn a_full_queue_takes_from_the_greediest_and_never_to_make_it_poorer_than_who_comes() {
        let mut queue = queue(4, 3);
        for (project, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 4)] {
            queue.push(project, item).unwrap();
        }
        assert_eq!(queue.push("c", 5).unwrap().1, Some(3), "a has three");
        assert_eq!(queue.push("b", 6).unwrap_err(), Full::Queue, "a and b would have one and two");
        assert_eq!(queue.push("d", 7).unwrap().1, Some(2), "a has two");
        assert_eq!(queue.push("e", 8).unwrap_err(), Full::Queue, "everybody has one");
        assert_eq!(drained(queue), [1, 4, 5, 7]);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Push(usize),
        Pop,
        Remove(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            4 => (0..5_usize).prop_map(Op::Push),
            3 => Just(Op::Pop),
            1 => any::<prop::sample::Index>().prop_map(|index| Op::Remove(index.index(64))),
        ];
        prop::collection::vec(op, 0..200)
    }

    /// A waiter of the model, and how often each project was served since it became the first of its own.
    #[derive(Debug)]
    struct Waiter {
        item: u32,
        project: usize,
        ticket: Ticket,
        passed: Option<[u32; 5]>,
    }

    const PROJECTS: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn mark_heads(model: &mut [Waiter]) {
        for project in 0..PROJECTS.len() {
            if let Some(first) = model.iter_mut().find(|waiter| waiter.project == project) {
                first.passed.get_or_insert([0; 5]);
            }
        }
    }

    proptest! {
        /// Against a plain list of who waits: nobody is lost or served twice, limits hold, a project's own are served
        /// in order, and the first of a project is passed at most once by each other project.
        #[test]
        fn turns_are_fair_whatever_happens(ops in ops()) {
            let mut queue = queue(16, 8);
            let mut model: Vec<Waiter> = Vec::new();
            for (item, op) in (0_u32..).zip(ops) {
                match op {
                    Op::Push(project) => {
                        let waiting = |of: usize| model.iter().filter(|waiter| waiter.project == of).count();
                        match queue.push(PROJECTS[project], item) {
                            Ok((ticket, evicted)) => {
                                prop_assert!(waiting(project) < 8);
                                prop_assert_eq!(evicted.is_some(), model.len() == 16);
                                if let Some(evicted) = evicted {
                                    let at = model.iter().position(|waiter| waiter.item == evicted).unwrap();
                                    let loser = model[at].project;
                                    prop_assert!(waiting(loser) > waiting(project) + 1);
                                    prop_assert!((0..5).all(|other| waiting(other) <= waiting(loser)));
                                    model.remove(at);
                                }
                                model.push(Waiter { item, project, ticket, passed: None });
                            }
                            Err(Full::Share) => prop_assert_eq!(waiting(project), 8),
                            Err(Full::Queue) => {
                                prop_assert_eq!(model.len(), 16);
                                prop_assert!((0..5).all(|other| waiting(other) <= waiting(project) + 1));
                            }
                        }
                    }
                    Op::Pop => match queue.pop(|_| Some(0)) {
                        None => prop_assert!(model.is_empty()),
                        Some((_, item)) => {
                            let at = model.iter().position(|waiter| waiter.item == item).unwrap();
                            let served = model.remove(at);
                            prop_assert!(model[..at].iter().all(|waiter| waiter.project != served.project), "in order");
                            for waiter in &mut model {
                                if let Some(passed) = &mut waiter.passed {
                                    passed[served.project] += 1;
                                    prop_assert!(passed[served.project] <= 1, "passed twice");
                                }
                            }
                        }
                    },
                    Op::Remove(index) if !model.is_empty() => {
                        let gone = model.remove(index % model.len());
                        prop_assert_eq!(queue.remove(&gone.ticket), Some(gone.item));
                        prop_assert_eq!(queue.remove(&gone.ticket), None);
                    }
                    Op::Remove(_) => {}
                }
                mark_heads(&mut model);
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.heads().count(), model.iter().filter(|waiter| waiter.passed.is_some()).count());
            }
        }
    }
}
