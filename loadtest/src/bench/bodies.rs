//! Request bodies, rendered before the clock runs. Only the end of each event id is written anew when a body is sent, so
//! that no event is a duplicate; that is a copy and a few bytes, not a rendering.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use crate::client::body_of;
use crate::generate::{Generator, SERIAL_DIGITS, Spread};

/// Distinct bodies: enough that compressible repetition between them does not flatter the engine.
const VARIETY: usize = 128;

/// Bodies and where their ids are.
#[derive(Debug)]
pub struct Bodies {
    templates: Vec<Template>,
    events: usize,
    serial: AtomicU64,
}

#[derive(Debug)]
struct Template {
    body: Bytes,
    /// Where the serial part of each event's id begins.
    serials: Vec<usize>,
}

impl Bodies {
    /// Bodies of this many events each.
    pub fn render(events: usize) -> Self {
        let now = Timestamp::now();
        // A run of its own per set of bodies: two sets never make the same id.
        let mut generator = Generator::new(fresh_run(now), 0, Spread::Now);
        let templates = (0..VARIETY).map(|_| Template::render(&mut generator, events, now)).collect();
        Self { templates, events, serial: AtomicU64::new(1) }
    }

    /// Bodies of one event, as one object.
    pub fn render_single() -> Self {
        let mut bodies = Self::render(1);
        for template in &mut bodies.templates {
            // Without the brackets of the array.
            template.body = template.body.slice(1..template.body.len() - 1);
            template.serials.iter_mut().for_each(|at| *at -= 1);
        }
        bodies
    }

    /// Events in one body.
    pub fn events(&self) -> usize {
        self.events
    }

    /// The next body, with ids that no other has.
    pub fn next(&self) -> Bytes {
        let first = self.serial.fetch_add(self.events as u64, Ordering::Relaxed);
        let Some(template) = self.templates.get(first as usize / self.events % VARIETY) else { return Bytes::new() };
        let mut body = BytesMut::from(template.body.as_ref());
        for (&at, serial) in template.serials.iter().zip(first..) {
            if let Some(digits) = body.get_mut(at..at + SERIAL_DIGITS) {
                write_hex(digits, serial);
            }
        }
        body.freeze()
    }
}

impl Template {
    fn render(generator: &mut Generator, events: usize, now: Timestamp) -> Self {
        let events: Vec<_> = (0..events).map(|_| generator.next(now).0).collect();
        let body = body_of(&events);
        let mut serials = Vec::with_capacity(events.len());
        let mut offset = 1;
        for event in &events {
            let id = event.json.find(&event.id).unwrap_or(0);
            serials.push(offset + id + event.id.len() - SERIAL_DIGITS);
            offset += event.json.len() + 1;
        }
        Self { body, serials }
    }
}

fn write_hex(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef".get((number & 15) as usize).copied().unwrap_or(b'0');
        number >>= 4;
    }
}

fn fresh_run(now: Timestamp) -> u32 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    (now.as_millisecond() as u64).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_body_is_json_and_no_id_comes_twice() {
        let bodies = Bodies::render(3);
        let mut ids = BTreeSet::new();
        for _ in 0..2 * VARIETY {
            let events: Vec<Value> = serde_json::from_slice(&bodies.next()).unwrap();
            assert_eq!(events.len(), 3);
            ids.extend(events.iter().map(|event| event["eventId"].as_str().unwrap().to_owned()));
        }
        assert_eq!(ids.len(), 6 * VARIETY);
    }

    #[test]
    fn a_single_event_is_an_object() {
        let bodies = Bodies::render_single();
        let (first, second): (Value, Value) =
            (serde_json::from_slice(&bodies.next()).unwrap(), serde_json::from_slice(&bodies.next()).unwrap());
        assert!(first.is_object());
        assert_ne!(first["eventId"], second["eventId"]);
    }
}
