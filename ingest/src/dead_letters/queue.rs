//! The queue of dead letters for ClickHouse, bounded in memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{DeadLetter, Sink};

/// Dead letters that wait, at most, in bytes: as much as a thousand of a usual size and a few hundred of the largest.
const MAX_BYTES: usize = 16 << 20;

/// Dead letters of one insert, at most.
const MAX_BATCH: usize = 500;

/// How long a dead letter waits for company.
const LINGER: Duration = Duration::from_secs(1);

/// The queue: any number put in, one takes out.
pub struct Queue {
    state: Mutex<QueueState>,
    changed: Notify,
    dropped: IntCounter,
}

#[derive(Default)]
struct QueueState {
    dead_letters: VecDeque<DeadLetter>,
    bytes: usize,
    is_closed: bool,
}

impl Queue {
    /// An empty one; `dropped` counts what it could not take.
    pub fn new(dropped: IntCounter) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), dropped }
    }

    /// Lets [`Queue::next`] end when everything is out.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// The next dead letters: when there are enough for a batch, or the first has waited. `None` when it is closed and empty.
    pub async fn next(&self) -> Option<Vec<DeadLetter>> {
        let mut due: Option<Instant> = None;
        loop {
            {
                let mut state = self.lock();
                let is_due = due.is_some_and(|due| due <= Instant::now());
                if state.dead_letters.len() >= MAX_BATCH
                    || (!state.dead_letters.is_empty() && (is_due || state.is_closed))
                {
                    return Some(state.take());
                }
                if state.is_closed {
                    return None;
                }
                if !state.dead_letters.is_empty() {
                    due.get_or_insert_with(|| Instant::now() + LINGER);
                }
            }
            match due {
                Some(due) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Counts dead letters that were given up.
    pub fn gave_up(&self, dead_letters: usize) {
        self.dropped.inc_by(dead_letters as u64);
    }

    /// Dead letters that wait.
    pub fn len(&self) -> usize {
        self.lock().dead_letters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Queue {
    fn offer(&self, dead_letters: Vec<DeadLetter>) {
        if dead_letters.is_empty() {
            return;
        }
        let mut dropped = 0;
        let mut state = self.lock();
        for dead_letter in dead_letters {
            let bytes = dead_letter.bytes();
            if state.is_closed || state.bytes + bytes > MAX_BYTES {
                dropped += 1;
            } else {
                state.bytes += bytes;
                state.dead_letters.push_back(dead_letter);
            }
        }
        drop(state);
        self.gave_up(dropped);
        self.changed.notify_one();
    }
}

impl QueueState {
    fn take(&mut self) -> Vec<DeadLetter> {
        let most = self.dead_letters.len().min(MAX_BATCH);
        let taken: Vec<_> = self.dead_letters.drain(..most).collect();
        self.bytes -= taken.iter().map(DeadLetter::bytes).sum::<usize>();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::dead_letter::tests::dead_letter;
    use super::*;

    fn queue() -> Queue {
        Queue::new(IntCounter::new("dropped", "x").unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_waits_for_company_and_a_full_batch_does_not() {
        let queue = queue();
        queue.offer(vec![dead_letter(b"1")]);
        let started = Instant::now();
        assert_eq!(queue.next().await.unwrap().len(), 1);
        assert_eq!(started.elapsed(), LINGER);
        queue.offer(vec![dead_letter(b"1"); MAX_BATCH + 1]);
        assert_eq!(queue.next().await.unwrap().len(), MAX_BATCH);
        assert_eq!(started.elapsed(), LINGER);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let queue = queue();
        queue.offer(vec![dead_letter(&[0; 1 << 20]); 20]);
        assert_eq!((queue.len(), queue.dropped.get()), (15, 5));
        queue.close();
        assert_eq!(queue.next().await.unwrap().len(), 15);
        assert!(queue.next().await.is_none());
        queue.offer(vec![dead_letter(b"late")]);
        assert_eq!((queue.len(), queue.dropped.get()), (0, 6));
    }
}
