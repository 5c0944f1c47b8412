//! The intent: what a consumer is about to insert, as the metadata of an offset commit.
//!
//! The commit's offset is the range's first; the metadata holds its last, and which offsets in between are not in the batch:
//! duplicates, replays and dead letters. With it the batch can be built again from the log alone, whatever the window of
//! known ids says by then.
//!
//! A broker takes 4,096 bytes of metadata (`offset.metadata.max.bytes`). [`Skips`] says when it is full, and the batch is closed
//! then: about 2,900 scattered duplicates, or any number in a row.
//!
//! The metadata says the first offset too. `MirrorMaker` writes a group's offsets to another cluster, each translated, and the metadata as it was:
//! there the range is one of other records. An intent at another offset than its own is none, and known ids tell what is stored.

use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Text in front of every intent of this version: shard, first, last, time and skips follow.
const PREFIX: &str = "tallyhouse/3:";

/// Of a version that did not write the first offset: shard, last, time and skips.
const PREFIX_OF_SHARD: &str = "tallyhouse/2:";

/// The same before there were shards.
const PREFIX_OF_ONE: &str = "tallyhouse/1:";

/// Bytes of encoded skips that surely fit: 4 characters for 3 bytes, and room for the numbers.
const MAX_SKIP_BYTES: usize = 2_900;

/// Largest entry: a gap and a run, of up to ten bytes each.
const MAX_ENTRY_BYTES: usize = 20;

/// Offsets of a range that are not in its batch, as gaps and runs. Appended in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Skips {
    closed: Vec<u8>,
    /// One past the last offset that `closed` covers, relative to the range's first.
    covered: i64,
    /// The run being extended: its first offset and length.
    run: Option<(i64, i64)>,
    offsets: usize,
}

impl Skips {
    /// Adds an offset, relative to the range's first; larger than all before.
    pub fn push(&mut self, relative: i64) {
        self.offsets += 1;
        match &mut self.run {
            Some((start, length)) if *start + *length == relative => *length += 1,
            _ => {
                self.close();
                self.run = Some((relative, 1));
            }
        }
    }

    pub fn len(&self) -> usize {
        self.offsets
    }

    pub fn is_empty(&self) -> bool {
        self.offsets == 0
    }

    /// Whether one more might not fit.
    pub fn is_full(&self) -> bool {
        self.closed.len() + 2 * MAX_ENTRY_BYTES > MAX_SKIP_BYTES
    }

    fn close(&mut self) {
        if let Some((start, length)) = self.run.take() {
            let gap = start - self.covered;
            self.covered = start + length;
            // The lowest bit tells whether a run follows: most skipped offsets stand alone.
            unsigned(&mut self.closed, (gap as u64) << 1 | u64::from(length > 1));
            if length > 1 {
                unsigned(&mut self.closed, length as u64);
            }
        }
    }
}

/// A range that is being inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// First offset: that of the commit.
    pub first: i64,
    pub last: i64,
    /// When it was first written, in milliseconds since 1970.
    pub at: i64,
    /// Where it is stored, from 1.
    pub shard: u32,
    skipped: Vec<(i64, i64)>,
}

/// Metadata that is not an intent of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the metadata of the committed offset is not understood; was it written by a newer version or another program?"
)]
pub struct NotAnIntent;

impl Intent {
    /// The metadata for a range.
    pub fn metadata(range: RangeInclusive<i64>, at: i64, shard: u32, mut skips: Skips) -> String {
        skips.close();
        let (first, last) = (range.start(), range.end());
        format!("{PREFIX}{shard}:{first}:{last}:{at}:{}", STANDARD_NO_PAD.encode(&skips.closed))
    }

    /// Reads a commit. `None`: nothing was being inserted, or in another cluster, from which this offset was translated.
    pub fn read(committed: i64, metadata: &str) -> Result<Option<Self>, NotAnIntent> {
        let whole = |number: &str| number.parse::<i64>().map_err(|_| NotAnIntent);
        let shard = |number: &str| number.parse().ok().filter(|shard| *shard >= 1).ok_or(NotAnIntent);
        let (shard, first, rest) = if metadata.is_empty() {
            return Ok(None);
        } else if let Some(rest) = metadata.strip_prefix(PREFIX) {
            let (number, rest) = rest.split_once(':').ok_or(NotAnIntent)?;
            let (first, rest) = rest.split_once(':').ok_or(NotAnIntent)?;
            (shard(number)?, whole(first)?, rest)
        } else if let Some(rest) = metadata.strip_prefix(PREFIX_OF_SHARD) {
            let (number, rest) = rest.split_once(':').ok_or(NotAnIntent)?;
            (shard(number)?, committed, rest)
        } else {
            (1, committed, metadata.strip_prefix(PREFIX_OF_ONE).ok_or(NotAnIntent)?)
        };
        let mut parts = rest.splitn(3, ':');
        let mut next = || parts.next().ok_or(NotAnIntent);
        let (last, at) = (whole(next()?)?, whole(next()?)?);
        let skips = STANDARD_NO_PAD.decode(next()?).map_err(|_| NotAnIntent)?;
        if last < first {
            return Err(NotAnIntent);
        }
        let skipped = runs(first, &skips).ok_or(NotAnIntent)?;
        Ok((first == committed).then_some(Self { first, last, at, shard, skipped }))
    }

    /// Whether an offset of the range is in its batch.
    pub fn keeps(&self, offset: i64) -> bool {
        let after = self.skipped.partition_point(|(start, _)| *start <= offset);
        let run = after.checked_sub(1).and_then(|index| self.skipped.get(index));
        run.is_none_or(|(start, length)| offset >= start + length)
    }
}

/// Absolute runs, in order.
fn runs(first: i64, mut bytes: &[u8]) -> Option<Vec<(i64, i64)>> {
    let mut runs = Vec::new();
    let mut covered = first;
    while !bytes.is_empty() {
        let gap = read_unsigned(&mut bytes)?;
        let length = if gap & 1 == 1 { i64::try_from(read_unsigned(&mut bytes)?).ok()? } else { 1 };
        let start = covered.checked_add(i64::try_from(gap >> 1).ok()?)?;
        covered = start.checked_add(length)?;
        runs.push((start, length));
    }
    Some(runs)
}

fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_unsigned(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(first: i64, last: i64, skipped: &[i64]) -> Intent {
        let mut skips = Skips::default();
        skipped.iter().for_each(|offset| skips.push(offset - first));
        assert_eq!(skips.len(), skipped.len());
        Intent::read(first, &Intent::metadata(first..=last, 7, 1, skips)).unwrap().unwrap()
    }

    #[test]
    fn what_is_left_out_is_known_again() {
        let skipped = [1_000, 1_001, 1_002, 1_050, 1_052, 2_000, 65_000];
        let intent = round(1_000, 70_000, &skipped);
        assert_eq!((intent.first, intent.last, intent.at), (1_000, 70_000, 7));
        for offset in 1_000..=70_000 {
            assert_eq!(intent.keeps(offset), !skipped.contains(&offset), "{offset}");
        }
        assert!((0..10).all(|offset| round(0, 9, &[]).keeps(offset)));
    }

    #[test]
    fn the_fullest_intent_fits_into_a_commit() {
        for step in [1, 2, 63, 64, 1_000] {
            let mut skips = Skips::default();
            let mut offset = 0;
            while !skips.is_full() && offset < 10_000_000 {
                skips.push(offset);
                offset += step;
            }
            let count = skips.len();
            let metadata = Intent::metadata(i64::MAX..=i64::MAX, i64::MAX, u32::MAX, skips);
            assert!(metadata.len() <= 4_096, "{} bytes for {count} at steps of {step}", metadata.len());
            assert!(count > 1_400, "only {count} at steps of {step}");
        }
    }

    #[test]
    fn the_shard_is_known_again_and_what_earlier_versions_wrote_is_read() {
        for shard in [1, 2, 77] {
            let metadata = Intent::metadata(5..=9, 1, shard, Skips::default());
            assert_eq!(Intent::read(5, &metadata).unwrap().unwrap().shard, shard);
        }
        let mut skips = Skips::default();
        skips.push(2);
        let today = Intent::metadata(5..=9, 1, 1, skips.clone());
        let skips = today.rsplit_once(':').unwrap().1;
        for (shard, before) in [(1, format!("tallyhouse/1:9:1:{skips}")), (7, format!("tallyhouse/2:7:9:1:{skips}"))] {
            let read = Intent::read(5, &before).unwrap().unwrap();
            assert_eq!(read, Intent { shard, ..Intent::read(5, &today).unwrap().unwrap() });
            assert!(!read.keeps(7) && read.keeps(8));
        }
    }

    #[test]
    fn an_intent_at_a_translated_offset_is_none() {
        let metadata = Intent::metadata(100..=199, 1, 1, Skips::default());
        for translated in [0, 60, 99, 101, 150, 1_000] {
            assert_eq!(Intent::read(translated, &metadata), Ok(None), "{translated}");
        }
        assert!(Intent::read(100, &metadata).unwrap().is_some());
    }

    #[test]
    fn foreign_metadata_is_refused_and_none_is_none() {
        assert_eq!(Intent::read(5, ""), Ok(None));
        for foreign in [
            "x",
            "tallyhouse/4:1:5:9:1:",
            "tallyhouse/3:1:1:",
            "tallyhouse/3:0:5:9:1:",
            "tallyhouse/3:1:5:4:1:",
            "tallyhouse/3:1:x:9:1:",
            "tallyhouse/2:0:9:1:",
            "tallyhouse/2:x:9:1:",
            "tallyhouse/2:9",
            "tallyhouse/1:9",
            "tallyhouse/1:9:1:!",
            "tallyhouse/1:4:1:",
            "tallyhouse/1:9:1:gA",
        ] {
            assert_eq!(Intent::read(5, foreign), Err(NotAnIntent), "{foreign}");
        }
    }
}
