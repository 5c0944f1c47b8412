//! Bodies of cached answers, compressed when that saves enough: an answer is read far more often than it is computed, and
//! its size bounds how many are cached.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::bulk::Decompressor;

/// From this size bytes are compressed. Below, little is saved and every reader would pay for it.
const FROM_BYTES: usize = 4 << 10;

/// The fastest level; JSON of series still shrinks to a tenth.
const LEVEL: i32 = 1;

/// The largest that is believed to have been compressed; answers end at 100 MiB.
const MOST_BYTES: usize = 256 << 20;

/// From this many uncompressed bytes packing and opening would hold up others on the thread: a megabyte of JSON takes about a
/// millisecond to open and four to pack, an answer of ten megabytes 8 and 42.
const BESIDE_BYTES: usize = 256 << 10;

/// Runs `work` on so many uncompressed bytes: at once, or on a thread of its own. `None` when that thread panicked.
pub(super) async fn beside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if bytes < BESIDE_BYTES { Some(work()) } else { tokio::task::spawn_blocking(work).await.ok() }
}

thread_local! {
    /// One for each thread that opens answers, of some 100 kB: to make it takes longer than to open a small answer. `None` until
    /// the first one, and for as long as there is no memory for it.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Bytes, maybe compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compressed {
    /// As they are.
    Plain(Bytes),
    /// By zstd.
    Zstd {
        /// The compressed bytes.
        bytes: Bytes,
        /// How many they were.
        raw: u32,
    },
}

impl Compressed {
    /// Packs bytes; those that do not shrink by a quarter stay as they are. What is packed is an allocation of its own length: a
    /// compressor makes room for the worst case, and a cache that weighs lengths would hold ten times its bound.
    pub fn of(plain: &[u8]) -> Self {
        if plain.len() < FROM_BYTES || plain.len() > MOST_BYTES {
            return Self::Plain(Bytes::copy_from_slice(plain));
        }
        match (zstd::bulk::compress(plain, LEVEL), u32::try_from(plain.len())) {
            (Ok(small), Ok(raw)) if small.len() < plain.len() / 4 * 3 => {
                Self::Zstd { bytes: Bytes::copy_from_slice(&small), raw }
            }
            _ => Self::Plain(Bytes::copy_from_slice(plain)),
        }
    }

    /// From what was written down: `raw` is 0 for plain bytes.
    pub fn from_parts(bytes: Bytes, raw: u32) -> Self {
        if raw == 0 { Self::Plain(bytes) } else { Self::Zstd { bytes, raw } }
    }

    /// What is held.
    pub fn held(&self) -> &Bytes {
        match self {
            Self::Plain(bytes) | Self::Zstd { bytes, .. } => bytes,
        }
    }

    /// How many bytes they were; 0 for plain ones.
    pub fn raw(&self) -> u32 {
        match self {
            Self::Plain(_) => 0,
            Self::Zstd { raw, .. } => *raw,
        }
    }

    /// How much work it is to open them, in bytes.
    pub(super) fn work(&self) -> usize {
        usize::try_from(self.raw()).unwrap_or(usize::MAX)
    }

    /// The bytes; `None` when they are damaged.
    pub fn open(&self) -> Option<Bytes> {
        match self {
            Self::Plain(bytes) => Some(bytes.clone()),
            Self::Zstd { bytes, raw } => {
                let raw = usize::try_from(*raw).ok().filter(|raw| *raw <= MOST_BYTES)?;
                let plain = decompressed(bytes, raw)?;
                (plain.len() == raw).then(|| Bytes::from(plain))
            }
        }
    }
}

/// Bytes of at most `most`, as they were; `None` when they are damaged, or there is no memory.
fn decompressed(bytes: &[u8], most: usize) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|opener| {
        if opener.is_none() {
            *opener = Decompressor::new().ok();
        }
        opener.as_mut()?.decompress(bytes, most).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_shrinks_and_comes_back() {
        let series = Bytes::from(r#"{"timestamp":"2026-11-20T00:00:00Z","value":17},"#.repeat(1_000));
        let packed = Compressed::of(&series);
        assert!(packed.held().len() * 10 < series.len(), "{}", packed.held().len());
        assert_eq!(packed.open(), Some(series));
    }

    #[test]
    fn what_is_cut_off_is_noticed_and_harms_no_other() {
        let series = Bytes::from(r#"{"timestamp":"2026-11-20T00:00:00Z","value":17},"#.repeat(1_000));
        let Compressed::Zstd { bytes, raw } = Compressed::of(&series) else { panic!("it shrinks") };
        for place in 0..bytes.len() {
            assert_eq!(Compressed::from_parts(bytes.slice(..place), raw).open(), None, "cut off at {place}");
            assert_eq!(Compressed::from_parts(bytes.clone(), raw).open(), Some(series.clone()), "after {place}");
        }
    }

    #[test]
    fn what_is_held_is_what_is_weighed() {
        let mut plain = Vec::with_capacity(1 << 20);
        plain.extend_from_slice(b"{}");
        for bytes in [Bytes::from("a".repeat(1 << 20)), Bytes::from(plain)] {
            let (Compressed::Zstd { bytes: held, .. } | Compressed::Plain(held)) = Compressed::of(&bytes);
            let length = held.len();
            assert_eq!(held.try_into_mut().unwrap().capacity(), length);
        }
    }

    #[test]
    fn what_is_small_or_does_not_shrink_stays() {
        let small = Bytes::from_static(b"{}");
        assert_eq!(Compressed::of(&small), Compressed::Plain(small));
        use rand::{RngExt, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        let noise: Bytes = (0..FROM_BYTES * 2).map(|_| random.random::<u8>()).collect();
        assert_eq!(Compressed::of(&noise), Compressed::Plain(noise));
    }

    #[tokio::test]
    async fn much_work_is_done_on_another_thread() {
        let here = std::thread::current().id();
        let is_here = async |bytes| beside(bytes, || std::thread::current().id()).await == Some(here);
        assert!(is_here(BESIDE_BYTES - 1).await && !is_here(BESIDE_BYTES).await);
        let answer = Compressed::of("a".repeat(BESIDE_BYTES).as_bytes());
        assert!(!is_here(answer.work()).await, "its size is that of the opened bytes");
        assert_eq!(beside(BESIDE_BYTES, || -> u8 { panic!("on purpose") }).await, None);
    }

    #[test]
    fn damage_and_lies_about_the_size_are_noticed() {
        let packed = Compressed::of("a".repeat(FROM_BYTES).as_bytes());
        let held = packed.held().clone();
        for raw in [1, packed.raw() - 1, packed.raw() + 1, u32::MAX] {
            assert_eq!(Compressed::from_parts(held.clone(), raw).open(), None, "{raw}");
        }
        assert_eq!(Compressed::from_parts(Bytes::from_static(b"nonsense"), 100).open(), None);
    }
}
