//! Estimates how many rows a batch adds to its finest rollup: its *cells*, each a project, type, minute, set of dimensions and value.
//!
//! ClickHouse keeps a state of users and one of values for each cell while it inserts, so cells, not events, decide the memory
//! of an insert: events of one minute share a few thousand cells, those of an import may have one each. Cells are counted by linear counting
//! (Whang et al. 1990): `n` of them set about `m (1 - e^(-n/m))` of `m` bits, within half a per cent here.

use std::hash::Hasher;
use std::sync::LazyLock;

use siphasher::sip::SipHasher13;
use tallyhouse_schema::Event;

/// Bits: 128 KiB.
const BITS: u32 = 20;

const MINUTE_MS: i64 = 60_000;

/// Of this process, so that nobody can choose values that meet in few bits.
static KEYS: LazyLock<[u8; 16]> = LazyLock::new(rand::random);

#[derive(Debug, Default)]
pub(super) struct Cells {
    bits: Vec<u64>,
    set: usize,
}

impl Cells {
    /// Adds those of an event.
    pub(super) fn add(&mut self, project: &str, event: &Event<'_>) {
        let mut of_type = SipHasher13::new_with_key(&KEYS);
        of_type.write_i64(event.ts.div_euclid(MINUTE_MS));
        text(&mut of_type, project);
        text(&mut of_type, &event.event_type);
        self.mark(of_type.finish());
        for dim in &event.dims {
            let mut cell = of_type;
            text(&mut cell, dim.set);
            text(&mut cell, &dim.value);
            self.mark(cell.finish());
        }
    }

    /// Bits that are set: a little fewer than there are cells.
    pub(super) fn len(&self) -> usize {
        self.set
    }

    fn mark(&mut self, hash: u64) {
        if self.bits.is_empty() {
            self.bits = vec![0; 1 << (BITS - 6)];
        }
        let bit = hash >> (u64::BITS - BITS);
        let mask = 1_u64 << (bit & 63);
        if let Some(word) = self.bits.get_mut((bit >> 6) as usize) {
            self.set += usize::from(*word & mask == 0);
            *word |= mask;
        }
    }
}

/// With its length, which tells "ab" and "c" from "a" and "bc".
fn text(hasher: &mut SipHasher13, text: &str) {
    hasher.write_usize(text.len());
    hasher.write(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use tallyhouse_schema::event::Dim;

    use super::*;

    fn add(cells: &mut Cells, ts: i64, values: &[String]) {
        let dims = values.iter().map(|value| Dim { set: "page", value: value.into() }).collect();
        cells.add("p", &Event { ts, event_type: "a".into(), dims, ..Event::default() });
    }

    #[test]
    fn cells_are_counted_within_a_per_cent() {
        let mut cells = Cells::default();
        for minute in 0..500 {
            let values: Vec<_> = (0..200).map(|value| format!("/page/{value}")).collect();
            add(&mut cells, minute * MINUTE_MS, &values);
            // Once more, a second later.
            add(&mut cells, minute * MINUTE_MS + 1_000, &values);
        }
        let (bits, cells_expected) = (f64::from(1_u32 << BITS), 500. * 201.);
        let found = -bits * (1. - cells.len() as f64 / bits).ln();
        assert!((found / cells_expected - 1.).abs() < 0.01, "{found} instead of {cells_expected}");
    }
}
