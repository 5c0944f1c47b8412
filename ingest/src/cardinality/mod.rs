//! The cardinality limiter: bounds the distinct values of a dimension, and the event types that are not declared, per project and hour.
//! What comes beyond is counted as `__other__`, so that rollups stay small.
//!
//! ```text
//! normalised event -> CardinalityLimiter::apply -> durable
//! ```
//!
//! It is decided here, before the event is durable, so that totals are exact and every later reader of the event agrees. Of values only
//! `event.dims` is rewritten; the raw columns keep what was sent. A type is rewritten in the event itself, so that raw events and rollups
//! agree, and the sent one is kept as the property [`SENT_TYPE`].
//!
//! A combination follows its parts: a value that is `__other__` alone is so in every combination. The joined value has a
//! bound of its own, [`COMBINED`] times that of a single dimension; beyond it every part is `__other__`. An absent value (`''`)
//! and `__other__` itself are never counted: a client may send the latter, and it is counted with the rest.
//!
//! Memory is bounded by [`MAX_ENTRIES`]. Beyond it the least recently used hours are forgotten, and may then take their full number
//! of values once more. After a start that holds for all hours but the current one and two before ([`warm_up`]).

pub mod warm_up;

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use siphasher::sip::SipHasher13;
use tallyhouse_schema::Event;
use tallyhouse_schema::dimension::{OTHER, VALUE_SEPARATOR};
use tallyhouse_schema::event::Flags;
use tallyhouse_schema::raw::{Property, PropertyValue};

use crate::event_key::{IdentityHasher, NumberSet};

/// How many more values a combination may have than a single dimension.
pub const COMBINED: usize = 10;

/// Values that are remembered, at most: about 20 bytes each.
pub const MAX_ENTRIES: usize = 2_000_000;

/// The property that keeps the type of an event that is counted as another.
pub const SENT_TYPE: &str = "__event_type__";

/// What types are remembered under: the set of the total, which has no values.
const TYPES: &str = "";

/// What a set costs besides its values, in entries.
const SET_COST: usize = 8;

/// Events handled under one hold of the lock, so that a large request holds nobody up for long.
const AT_ONCE: usize = 128;

const HOUR_MS: i64 = 3_600_000;

type Numbers<V> = HashMap<u64, V, BuildHasherDefault<IdentityHasher>>;

pub struct CardinalityLimiter {
    secret: [u8; 16],
    most: usize,
    state: Mutex<LimiterState>,
}

#[derive(Default)]
struct LimiterState {
    hours: HashMap<i64, Hour>,
    entries: usize,
    uses: u64,
}

#[derive(Default)]
struct Hour {
    /// By project and set; each value is hashed with them.
    sets: Numbers<NumberSet>,
    entries: usize,
    last_used: u64,
}

impl Default for CardinalityLimiter {
    fn default() -> Self {
        Self::new(MAX_ENTRIES)
    }
}

impl CardinalityLimiter {
    /// One that remembers at most so many values.
    pub fn new(most: usize) -> Self {
        Self { secret: rand::random(), most, state: Mutex::default() }
    }

    /// Rewrites what is beyond the bound, and calls `overflowed` with the set of each value that it rewrites; a type that it rewrites has
    /// [`Flags::OTHER_TYPE`]. A declared type counts towards the bound and is never rewritten.
    pub fn apply<'a>(
        &self,
        project: &str,
        limit: u32,
        is_declared: impl Fn(&str) -> bool,
        events: &mut [Event<'a>],
        mut overflowed: impl FnMut(&'a str),
    ) {
        let limit = limit as usize;
        let mut sets = SetNumbers::of(self, project);
        for events in events.chunks_mut(AT_ONCE) {
            let mut state = self.lock();
            for event in events {
                let hour = state.hour(event.ts.div_euclid(HOUR_MS));
                let before = hour.entries;
                let mut kept = ProjectHour { limiter: self, sets: &mut sets, limit, hour };
                if !kept.has_room(TYPES, &event.event_type, limit) && !is_declared(&event.event_type) {
                    count_as_other(event);
                }
                for dim in &mut event.dims {
                    if let Some(value) = kept.value(dim.set, &dim.value) {
                        dim.value = value;
                        overflowed(dim.set);
                    }
                }
                let added = hour.entries - before;
                state.entries += added;
            }
            state.forget(self.most);
        }
    }

    /// Adds a value, whatever the bound.
    pub fn remember(&self, project: &str, set: &str, value: &str, hour: i64) {
        let mut state = self.lock();
        let hour = state.hour(hour);
        let before = hour.entries;
        let (mut sets, limit) = (SetNumbers::of(self, project), usize::MAX / COMBINED);
        let mut kept = ProjectHour { limiter: self, sets: &mut sets, limit, hour };
        // Without a bound nothing is rewritten.
        drop(kept.value(set, value));
        let added = hour.entries - before;
        state.entries += added;
        state.forget(self.most);
    }

    /// Values that are remembered.
    pub fn entries(&self) -> usize {
        self.lock().entries
    }

    fn lock(&self) -> MutexGuard<'_, LimiterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self, under: u64, text: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        hasher.write_u64(under);
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

impl LimiterState {
    fn hour(&mut self, hour: i64) -> &mut Hour {
        self.uses += 1;
        let uses = self.uses;
        let hour = self.hours.entry(hour).or_default();
        hour.last_used = uses;
        hour
    }

    /// Forgets the hours that were not used for longest, an eighth more than needed, so that it is seldom done.
    fn forget(&mut self, most: usize) {
        if self.entries <= most {
            return;
        }
        let mut by_use: Vec<(u64, i64)> = self.hours.iter().map(|(hour, kept)| (kept.last_used, *hour)).collect();
        by_use.sort_unstable();
        for (_, hour) in by_use {
            if self.entries <= most - most / 8 {
                break;
            }
            self.entries -= self.hours.remove(&hour).map_or(0, |gone| gone.entries);
        }
    }
}

/// The sets of one project that were met, as numbers. They are few, and events come with the same ones.
struct SetNumbers<'a> {
    project: u64,
    numbers: Vec<(&'a str, u64)>,
}

impl<'a> SetNumbers<'a> {
    fn of(limiter: &CardinalityLimiter, project: &str) -> Self {
        Self { project: limiter.hash(0, project), numbers: Vec::new() }
    }

    fn number(&mut self, limiter: &CardinalityLimiter, set: &'a str) -> u64 {
        if let Some((_, number)) = self.numbers.iter().find(|(known, _)| *known == set) {
            return *number;
        }
        let number = limiter.hash(self.project, set);
        self.numbers.push((set, number));
        number
    }
}

/// The values of one project and hour.
struct ProjectHour<'k, 'a> {
    limiter: &'k CardinalityLimiter,
    sets: &'k mut SetNumbers<'a>,
    limit: usize,
    hour: &'k mut Hour,
}

impl<'a> ProjectHour<'_, 'a> {
    /// What the value must be instead, if it may not stay.
    fn value(&mut self, set: &'a str, value: &str) -> Option<Cow<'static, str>> {
        if !set.contains(',') {
            return (!self.has_room(set, value, self.limit)).then_some(Cow::Borrowed(OTHER));
        }
        if self.knows(set, value) {
            // So are its parts, for as long as the hour is.
            return None;
        }
        let mut parts: Vec<&str> = value.split(VALUE_SEPARATOR).collect();
        let mut is_changed = false;
        for (name, part) in set.split(',').zip(&mut parts) {
            if !self.has_room(name, part, self.limit) {
                *part = OTHER;
                is_changed = true;
            }
        }
        let joined = if is_changed { Cow::Owned(join(&parts)) } else { Cow::Borrowed(value) };
        let is_counted = parts.iter().any(|part| !part.is_empty() && *part != OTHER);
        if is_counted && !self.has_room(set, &joined, self.limit * COMBINED) {
            return Some(Cow::Owned(join(&vec![OTHER; parts.len()])));
        }
        is_changed.then(|| Cow::Owned(joined.into_owned()))
    }

    fn knows(&mut self, set: &'a str, value: &str) -> bool {
        let set = self.sets.number(self.limiter, set);
        self.hour.sets.get(&set).is_some_and(|known| known.contains(&self.limiter.hash(set, value)))
    }

    /// Whether the value is known, or may become so.
    fn has_room(&mut self, set: &'a str, value: &str, limit: usize) -> bool {
        if value.is_empty() || value == OTHER {
            return true;
        }
        let set = self.sets.number(self.limiter, set);
        let known = self.hour.sets.entry(set).or_insert_with(|| {
            self.hour.entries += SET_COST;
            NumberSet::default()
        });
        let value = self.limiter.hash(set, value);
        if known.contains(&value) {
            return true;
        }
        if known.len() >= limit {
            return false;
        }
        known.insert(value);
        self.hour.entries += 1;
        true
    }
}

fn count_as_other(event: &mut Event<'_>) {
    let sent = std::mem::replace(&mut event.event_type, Cow::Borrowed(OTHER));
    event.flags.set(Flags::OTHER_TYPE);
    if event.properties.iter().all(|property| property.name != SENT_TYPE) {
        event.properties.push(Property::new(SENT_TYPE, PropertyValue::Text(sent)));
    }
}

fn join(parts: &[&str]) -> String {
    parts.join(VALUE_SEPARATOR.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values as they are kept in hour 1.
    fn kept(limiter: &CardinalityLimiter, limit: usize, dims: &[(&str, &str)]) -> Vec<String> {
        let mut state = limiter.lock();
        let hour = state.hour(1);
        let mut sets = SetNumbers::of(limiter, "p");
        let mut kept = ProjectHour { limiter, sets: &mut sets, limit, hour };
        dims.iter()
            .map(|(set, value)| kept.value(set, value).unwrap_or((*value).to_owned().into()).into_owned())
            .collect()
    }

    #[test]
    fn the_first_values_stay_and_the_rest_is_other() {
        let limiter = CardinalityLimiter::default();
        let values = [("a", "1"), ("a", "2"), ("a", "3"), ("a", "1"), ("a", ""), ("a", OTHER), ("b", "3")];
        assert_eq!(kept(&limiter, 2, &values), ["1", "2", OTHER, "1", "", OTHER, "3"]);
    }

    #[test]
    fn types_beyond_the_bound_are_other_and_keep_what_was_sent() {
        let limiter = CardinalityLimiter::default();
        let event = |kind: &'static str| Event { event_type: kind.into(), ..Event::default() };
        let mut events = ["a", "b", "c", "a", "declared", OTHER].map(event);
        limiter.apply("p", 2, |kind| kind == "declared", &mut events, |set| panic!("{set} has no values"));
        assert_eq!(events.each_ref().map(|event| event.event_type.as_ref()), ["a", "b", OTHER, "a", "declared", OTHER]);
        let sent = Property::new(SENT_TYPE, PropertyValue::Text("c".into()));
        assert_eq!((&events[2].properties, events[2].flags), (&vec![sent], Flags::OTHER_TYPE));
        assert!(events[0].properties.is_empty() && events[5].flags == Flags::default());
    }

    #[test]
    fn combinations_follow_their_parts_in_any_order() {
        for singles_first in [true, false] {
            let limiter = CardinalityLimiter::default();
            kept(&limiter, 1, &[("a", "1"), ("b", "x")]);
            let (single, pair) = (("a", "2"), ("a,b", "2\u{1f}x"));
            let dims = if singles_first { [single, pair] } else { [pair, single] };
            let mut found = kept(&limiter, 1, &dims);
            found.sort();
            assert_eq!(found, [OTHER.to_owned(), format!("{OTHER}\u{1f}x")]);
        }
    }

    #[test]
    fn a_combination_has_a_bound_of_its_own_beyond_which_every_part_is_other() {
        let limiter = CardinalityLimiter::default();
        let pairs: Vec<String> = (0..16).map(|n| format!("{}\u{1f}{}", n / 4, n % 4)).collect();
        let dims: Vec<_> = pairs.iter().map(|pair| ("a,b", pair.as_str())).collect();
        // Four values each make sixteen pairs: all fit 40, and with a bound of one none but the first does.
        assert_eq!(kept(&limiter, 4, &dims), pairs);
        let limiter = CardinalityLimiter::default();
        let wide: Vec<String> = (0..12).map(|n| format!("{n}\u{1f}")).collect();
        for value in &wide {
            limiter.remember("p", "a", value.trim_end_matches('\u{1f}'), 1);
        }
        let dims: Vec<_> = wide.iter().map(|pair| ("a,b", pair.as_str())).collect();
        let found = kept(&limiter, 1, &dims);
        assert_eq!(found[..10], wide[..10]);
        assert_eq!(found[10..], [format!("{OTHER}\u{1f}{OTHER}"), format!("{OTHER}\u{1f}{OTHER}")]);
    }

    #[test]
    fn memory_is_bounded_and_what_was_used_last_is_kept() {
        let limiter = CardinalityLimiter::new(1_000);
        for hour in 0..1_000 {
            for value in 0..10 {
                limiter.remember("p", "a", &value.to_string(), hour);
            }
            assert!(limiter.entries() <= 1_000);
        }
        let state = limiter.lock();
        assert!(state.hours.contains_key(&999) && !state.hours.contains_key(&0));
        assert_eq!(state.entries, state.hours.values().map(|hour| hour.entries).sum::<usize>());
    }

    #[test]
    fn projects_and_hours_have_bounds_of_their_own() {
        let limiter = CardinalityLimiter::default();
        limiter.remember("p", "a", "1", 1);
        let mut state = limiter.lock();
        for (project, hour) in [("q", 1), ("p", 2)] {
            let hour = state.hour(hour);
            let sets = &mut SetNumbers::of(&limiter, project);
            assert_eq!(ProjectHour { limiter: &limiter, sets, limit: 1, hour }.value("a", "2"), None);
        }
        let (hour, sets) = (state.hour(1), &mut SetNumbers::of(&limiter, "p"));
        assert_eq!(ProjectHour { limiter: &limiter, sets, limit: 1, hour }.value("a", "2").as_deref(), Some(OTHER));
    }
}
