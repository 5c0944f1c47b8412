//! Repeats of log lines: a failure that goes on is told once, and then counted every minute.
//!
//! ```text
//! warning, error -> new kind, or quiet for a minute? -> written
//!                -> else                              -> counted -> each minute: "repeated", how often, of what
//! ```
//!
//! Lines are of one kind when they come from one place in the source and are about the same [subject](SUBJECTS): damage of two
//! segments is two lines, a thousand failed attempts of one insert are one line and a number. What is written at `info` and below
//! is never left out. Memory is bounded: beyond [`MOST_KINDS`] the subject is not looked at.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// Fields that say what a line is about.
const SUBJECTS: [&str; 14] = [
    "component",
    "folder",
    "from",
    "name",
    "number",
    "partition",
    "path",
    "place",
    "project",
    "project_id",
    "segment",
    "topic",
    "what",
    "warning",
];

/// The target of summaries, which are no repeats of one another.
const TARGET: &str = "tallyhouse::repeated";

const MINUTE: Duration = Duration::from_secs(60);

/// How often it is looked for what is due.
const LOOK: Duration = Duration::from_secs(5);

/// Kinds that are remembered with their subject.
const MOST_KINDS: usize = 1_024;

/// A filter for a layer that writes lines. Clones share what they have seen.
#[derive(Clone, Default)]
pub(super) struct Repeats(Arc<Mutex<Kinds>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    callsite: Identifier,
    subject: u64,
}

/// What was seen of a kind within a minute.
struct Seen {
    since: Instant,
    left_out: u64,
    of: String,
}

#[derive(Default)]
struct Kinds(HashMap<Kind, Seen>);

/// How many lines of a kind were left out.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    repeated: u64,
    of: String,
}

impl Kinds {
    /// Whether a line is written. `of` is what its summaries call it.
    fn pass(&mut self, mut kind: Kind, of: String, now: Instant) -> bool {
        if self.0.len() >= MOST_KINDS && !self.0.contains_key(&kind) {
            kind.subject = 0;
        }
        match self.0.get_mut(&kind) {
            Some(seen) => {
                seen.left_out += 1;
                false
            }
            None => {
                self.0.insert(kind, Seen { since: now, left_out: 0, of });
                true
            }
        }
    }

    /// Summaries of the minutes that have ended. A kind that was quiet for one is new again.
    fn due(&mut self, now: Instant) -> Vec<Summary> {
        let mut summaries = Vec::new();
        self.0.retain(|_, seen| {
            if now.duration_since(seen.since) < MINUTE {
                return true;
            }
            let repeated = std::mem::take(&mut seen.left_out);
            seen.since = now;
            if repeated > 0 {
                summaries.push(Summary { repeated, of: seen.of.clone() });
            }
            repeated > 0
        });
        summaries
    }
}

impl Repeats {
    fn kinds(&self) -> std::sync::MutexGuard<'_, Kinds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes summaries for as long as the process lives, on a thread of its own: there may be no runtime.
    pub(super) fn tell_every_minute(self) {
        let work = move || {
            loop {
                std::thread::sleep(LOOK);
                let due = self.kinds().due(Instant::now());
                for Summary { repeated, of } in due {
                    tracing::warn!(target: TARGET, repeated, of, "repeated within a minute");
                }
            }
        };
        let thread = std::thread::Builder::new().name("log-repeats".to_owned()).spawn(work);
        if let Err(error) = thread {
            tracing::warn!(%error, "repeats of log lines are left out and not counted");
        }
    }
}

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    /// Whoever decides about single events must be asked each time: with `always`, what was left out before would still count.
    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let about = event.metadata();
        if *about.level() > Level::WARN || about.target() == TARGET {
            return true;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let kind = Kind { callsite: about.callsite(), subject: line.subject.finish() };
        self.kinds().pass(kind, line.of, Instant::now())
    }
}

/// What a line says of itself.
#[derive(Default)]
struct Line {
    subject: DefaultHasher,
    /// The message and the subject.
    of: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let name = field.name();
        let is_subject = SUBJECTS.contains(&name);
        if is_subject {
            (name, format!("{value:?}")).hash(&mut self.subject);
        }
        if is_subject || name == "message" {
            let gap = if self.of.is_empty() { "" } else { " " };
            let named = if is_subject { format!("{name}=") } else { String::new() };
            self.of.push_str(&format!("{gap}{named}{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::*;

    /// Counts what comes through.
    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_failure_that_goes_on_is_told_once_and_then_counted() {
        let (repeats, written) = (Repeats::default(), Arc::<AtomicUsize>::default());
        let subscriber = tracing_subscriber::registry().with(Count(Arc::clone(&written)).with_filter(repeats.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for attempt in 0..100 {
                tracing::warn!(attempt, "an insert failed");
                tracing::info!(attempt, "never left out");
            }
            for segment in ["a", "b", "a"] {
                tracing::error!(segment, "damaged");
            }
        });
        assert_eq!(written.load(Ordering::Relaxed), 1 + 100 + 2);
        let mut due = repeats.kinds().due(Instant::now() + MINUTE);
        due.sort_by_key(|summary| summary.repeated);
        let expected = [(1, "damaged segment=\"a\""), (99, "an insert failed")];
        assert_eq!(due, expected.map(|(repeated, of)| Summary { repeated, of: of.to_owned() }));
    }

    #[test]
    fn what_was_quiet_for_a_minute_is_new() {
        let (repeats, written) = (Repeats::default(), Arc::<AtomicUsize>::default());
        let subscriber = tracing_subscriber::registry().with(Count(Arc::clone(&written)).with_filter(repeats.clone()));
        let fail = || tracing::warn!("a poll failed");
        tracing::subscriber::with_default(subscriber, || {
            (0..3).for_each(|_| fail());
            assert_eq!(repeats.kinds().due(Instant::now() + MINUTE / 2).len(), 0);
            assert_eq!(repeats.kinds().due(Instant::now() + MINUTE).len(), 1, "it goes on");
            fail();
            assert_eq!(written.load(Ordering::Relaxed), 1);
            assert_eq!(repeats.kinds().due(Instant::now() + MINUTE * 3).len(), 1);
            assert_eq!(repeats.kinds().due(Instant::now() + MINUTE * 5).len(), 0);
            fail();
        });
        assert_eq!(written.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn kinds_are_bounded() {
        let (repeats, written) = (Repeats::default(), Arc::<AtomicUsize>::default());
        let subscriber = tracing_subscriber::registry().with(Count(Arc::clone(&written)).with_filter(repeats.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for project in 0..MOST_KINDS * 2 {
                tracing::warn!(project, "something");
            }
        });
        assert_eq!(written.load(Ordering::Relaxed), MOST_KINDS + 1);
        assert_eq!(repeats.kinds().0.len(), MOST_KINDS + 1);
    }
}
