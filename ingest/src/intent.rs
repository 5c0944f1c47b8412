//! The intent: what a consumer is about to insert, as the metadata of an offset commit.
//!
//! The commit's offset is the range's first; the metadata holds its last, and which offsets in between are not in the batch:
//! duplicates, replays and dead letters. With it the batch can be built again from the log alone, whatever the window of
//! known ids says by then.
//!
//! A broker takes 4,096 bytes of metadata (`offset.metadata.max.bytes`). [`Skips`] says when it is full, and the batch is closed
//! then: about 2,900 scattered duplicates, or any number in a row.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Text in front of every intent of this version.
const PREFIX: &str = "tallyhouse/1:";

/// The same of a batch that is not for the first shard, whose number follows. Versions that know one server only refuse it, as they should.
const PREFIX_OF_SHARD: &str = "tallyhouse/2:";

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
    pub fn metadata(last: i64, at: i64, shard: u32, mut skips: Skips) -> String {
        skips.close();
        let skips = STANDARD_NO_PAD.encode(&skips.closed);
        if shard == 1 {
            format!("{PREFIX}{last}:{at}:{skips}")
        } else {
            format!("{PREFIX_OF_SHARD}{shard}:{last}:{at}:{skips}")
        }
    }

    /// Reads a commit. `None`: nothing was being inserted.
    pub fn read(first: i64, metadata: &str) -> Result<Option<Self>, NotAnIntent> {
        if metadata.is_empty() {
            return Ok(None);
        }
        let (shard, rest) = match metadata.strip_prefix(PREFIX) {
            Some(rest) => (1, rest),
            None => {
                let rest = metadata.strip_prefix(PREFIX_OF_SHARD).ok_or(NotAnIntent)?;
                let (shard, rest) = rest.split_once(':').ok_or(NotAnIntent)?;
                (shard.parse().ok().filter(|shard| *shard > 1).ok_or(NotAnIntent)?, rest)
            }
        };
        let mut parts = rest.splitn(3, ':');
        let mut number = || parts.next().and_then(|text| text.parse::<i64>().ok()).ok_or(NotAnIntent);
        let (last, at) = (number()?, number()?);
        let skips = parts.next().and_then(|text| STANDARD_NO_PAD.decode(text).ok()).ok_or(NotAnIntent)?;
        if last < first {
            return Err(NotAnIntent);
        }
        Ok(Some(Self { first, last, at, shard, skipped: runs(first, &skips).ok_or(NotAnIntent)? }))
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
        Intent::read(first, &Intent::metadata(last, 7, 1, skips)).unwrap().unwrap()
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
            let metadata = Intent::metadata(i64::MAX, i64::MAX, u32::MAX, skips);
            assert!(metadata.len() <= 4_096, "{} bytes for {count} at steps of {step}", metadata.len());
            assert!(count > 1_400, "only {count} at steps of {step}");
        }
    }

    #[test]
    fn the_shard_is_known_again_and_the_first_is_written_as_ever() {
        for shard in [1, 2, 77] {
            let metadata = Intent::metadata(9, 1, shard, Skips::default());
            assert_eq!(Intent::read(5, &metadata).unwrap().unwrap().shard, shard);
            assert_eq!(metadata.starts_with("tallyhouse/1:9:1:"), shard == 1, "{metadata}");
        }
    }

    #[test]
    fn foreign_metadata_is_refused_and_none_is_none() {
        assert_eq!(Intent::read(5, ""), Ok(None));
        for foreign in [
            "x",
            "tallyhouse/3:1:1:",
            "tallyhouse/2:1:9:1:",
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
