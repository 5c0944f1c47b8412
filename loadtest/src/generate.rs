//! Made-up events of a realistic shape (about 300 bytes), the same for the same seed, and what must be counted for each.

use std::num::NonZeroU64;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::client::Outgoing;
use crate::poison::POISON;

/// Event types without a declaration: they are rolled up by the default dimension sets.
const EVENT_TYPES: [&str; 8] =
    ["page_view", "click", "search", "sign_up", "add_to_cart", "checkout", "video_play", "share"];
const COUNTRIES: [&str; 20] = [
    "US", "DE", "FR", "GB", "IT", "ES", "PL", "NL", "SE", "CH", "AT", "BE", "BR", "CA", "MX", "JP", "IN", "AU", "ZA",
    "KR",
];
const DEVICES: [&str; 3] = ["desktop", "mobile", "tablet"];
const PLANS: [&str; 3] = ["free", "standard", "enterprise"];
const REFERRERS: [&str; 4] = ["direct", "search", "newsletter", "partner"];
const USERS: u32 = 10_000;

/// Length of the part of an event id that differs within a run; it is the id's end.
pub const SERIAL_DIGITS: usize = 12;

/// When generated events happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// At the time given.
    Now,
    /// Within the ten minutes before it, the same an hour ago, or the same 25 hours ago: several buckets of every rollup.
    Recent,
}

/// What the rollups must count of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Its type.
    pub event_type: &'static str,
    /// When it happened, Unix milliseconds.
    pub ts_millis: i64,
    /// Its country.
    pub country: &'static str,
    /// Its device.
    pub device: &'static str,
    /// Its value; a multiple of a quarter, so that sums are exact in any order.
    pub value: Option<f64>,
}

/// Makes events.
#[derive(Debug)]
pub struct Generator {
    rng: StdRng,
    run: u32,
    worker: u16,
    serial: u64,
    spread: Spread,
    poison: Option<NonZeroU64>,
}

impl Generator {
    /// Ids are unique as long as `(run, worker)` is; everything else follows from them too.
    pub fn new(run: u32, worker: u16, spread: Spread) -> Self {
        Self {
            rng: StdRng::seed_from_u64(u64::from(run) << 16 | u64::from(worker)),
            run,
            worker,
            serial: 0,
            spread,
            poison: None,
        }
    }

    /// One in so many events is poison; the others stay as they were.
    #[must_use]
    pub fn with_poison(self, every: Option<NonZeroU64>) -> Self {
        Self { poison: every, ..self }
    }

    /// The next event, as of `now`.
    pub fn next(&mut self, now: Timestamp) -> (Outgoing, Facts) {
        let mut facts = Facts {
            event_type: self.one_of(&EVENT_TYPES),
            ts_millis: now.as_millisecond() - self.age_millis(),
            country: self.one_of(&COUNTRIES),
            device: self.one_of(&DEVICES),
            value: self.rng.random_bool(0.75).then(|| f64::from(self.rng.random_range(-400..40_000)) / 4.0),
        };
        self.serial += 1;
        if self.poison.is_some_and(|every| self.serial % every == 0) {
            facts.event_type = POISON;
        }
        let id = format!("{:08x}-{:04x}-4000-8000-{:0SERIAL_DIGITS$x}", self.run, self.worker, self.serial);
        let json = self.render(&id, &facts);
        (Outgoing { id, json }, facts)
    }

    fn render(&mut self, id: &str, facts: &Facts) -> String {
        let timestamp = Timestamp::from_millisecond(facts.ts_millis).unwrap_or(Timestamp::UNIX_EPOCH);
        let value = facts.value.map_or(String::new(), |value| format!(r#""value":{value},"#));
        format!(
            concat!(
                r#"{{"eventId":"{id}","eventType":"{event_type}","userId":"user-{user:05}","timestamp":"{timestamp:.3}","#,
                r#""properties":{{"path":"/products/{product}","referrer":"{referrer}","plan":"{plan}",{value}"duration_ms":{duration}}},"#,
                r#""context":{{"country":"{country}","device":"{device}"}}}}"#
            ),
            id = id,
            event_type = facts.event_type,
            user = self.rng.random_range(0..USERS),
            timestamp = timestamp,
            product = self.rng.random_range(1..5_000),
            referrer = self.one_of(&REFERRERS),
            plan = self.one_of(&PLANS),
            value = value,
            duration = self.rng.random_range(1..60_000),
            country = facts.country,
            device = facts.device,
        )
    }

    fn age_millis(&mut self) -> i64 {
        const HOUR: i64 = 3_600_000;
        match self.spread {
            Spread::Now => 0,
            Spread::Recent => {
                self.rng.random_range(0..600_000) + HOUR * [0, 1, 25].get(self.rng.random_range(0..3)).unwrap_or(&0)
            }
        }
    }

    fn one_of<T: Copy + Default>(&mut self, of: &[T]) -> T {
        of.get(self.rng.random_range(0..of.len())).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_events_and_ids_differ() {
        let now = Timestamp::from_millisecond(1_800_000_000_123).unwrap();
        let make = |worker| {
            let mut generator = Generator::new(7, worker, Spread::Recent);
            (0..50).map(|_| generator.next(now)).collect::<Vec<_>>()
        };
        assert_eq!(make(1), make(1));
        let ids: std::collections::BTreeSet<String> =
            make(1).into_iter().chain(make(2)).map(|(event, _)| event.id).collect();
        assert_eq!(ids.len(), 100);
    }

    #[test]
    fn events_are_json_of_about_300_bytes_that_says_what_the_facts_say() {
        let now = Timestamp::from_millisecond(1_800_000_000_123).unwrap();
        let mut generator = Generator::new(7, 1, Spread::Now);
        for _ in 0..100 {
            let (event, facts) = generator.next(now);
            let json: serde_json::Value = serde_json::from_str(&event.json).unwrap();
            assert_eq!(json["eventId"], event.id);
            assert_eq!(json["timestamp"], "2027-01-15T08:00:00.123Z");
            assert_eq!(json["context"]["device"], facts.device);
            assert_eq!(json["properties"]["value"].as_f64(), facts.value);
            assert!((250..340).contains(&event.json.len()), "{}", event.json);
        }
    }
}
