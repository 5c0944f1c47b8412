//! Segments of the local log with a few bytes changed, the same ones in every run: a bounded part of what `fuzz/` looks for.
#![allow(
    clippy::indexing_slicing,
    reason = "a helper that panics fails its test; .clippy.toml exempts only the tests themselves"
)]

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tallyhouse_ingest::log::local::frame::{self, GroupHeader};

#[path = "frames/walk.rs"]
mod walk;

use walk::walk;

const SALT: u32 = 77;
const ROUNDS: usize = 4_000;
const GROUPS: i64 = 4;
const RECORDS: u32 = 5;

/// Four groups of five records, the third with a text that looks like a group.
fn segment() -> Vec<u8> {
    let mut segment = Vec::new();
    for group in 0..GROUPS {
        let mut body = Vec::new();
        for record in 0..RECORDS {
            let payload = if group == 2 { segment.clone() } else { vec![b'x'; 10 * record as usize] };
            frame::write_record(SALT, &mut body, |out| out.extend_from_slice(&payload));
        }
        let header = GroupHeader {
            body: body.len() as u32,
            first: group * i64::from(RECORDS),
            at: 1_800_000_000_000,
            records: RECORDS,
        };
        segment.extend_from_slice(&header.encode(SALT));
        segment.extend_from_slice(&body);
    }
    segment.resize(segment.len() + 100, 0);
    segment
}

#[test]
fn damaged_segments_are_read_to_their_end() {
    let whole = segment();
    let all = GROUPS as usize * RECORDS as usize;
    assert_eq!(walk(&whole, SALT), all);
    let mut rng = StdRng::seed_from_u64(17);
    let mut read = 0;
    for _ in 0..ROUNDS {
        let mut bytes = whole.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            let until = (at + rng.random_range(0..40)).min(bytes.len());
            match rng.random_range(0..4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] ^= 1 << rng.random_range(0..8),
                2 => drop(bytes.drain(at..until)),
                _ => {
                    let copy = bytes[at..until].to_vec();
                    drop(bytes.splice(at..at, copy));
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let records = walk(&bytes, SALT);
        assert!(records <= all, "{records}: none is invented");
        read += records;
    }
    assert!(read > ROUNDS * all / 4, "{read}: what is whole is read");
}
