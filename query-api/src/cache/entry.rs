//! A cached answer: its form for a reader, in memory, and encoded for Redis.

use std::sync::Arc;

use bytes::Bytes;

use super::compressed::{Compressed, beside};
use super::stamp::{DaysStamp, Proven};
use super::ttl::{Ends, Policy};
use crate::telemetry::Lookup;

/// An answer, rendered but for what changes from one reader to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The JSON from its start into `meta`, which is left open.
    pub head: Bytes,
    /// Weak entity tag of the data, with its quotes.
    pub etag: String,
    /// When it was computed, in milliseconds since the epoch.
    pub computed_ms: i64,
    /// When the oldest part of it was read; the answer itself, if it was not joined from remembered parts.
    pub oldest_ms: i64,
    /// When it is no longer fresh.
    pub expires_ms: i64,
    /// Whether a shard of the cluster did not answer.
    pub is_partial: bool,
}

impl Entry {
    /// Seconds since its oldest part was read.
    pub fn age_s(&self, now_ms: i64) -> i64 {
        (now_ms - self.oldest_ms).max(0) / 1_000
    }

    /// Whole seconds until it is no longer fresh.
    pub fn remaining_s(&self, now_ms: i64) -> i64 {
        (self.expires_ms - now_ms).max(0) / 1_000
    }
}

/// An answer as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedAnswer {
    pub body: Compressed,
    pub etag: String,
    /// [`Entry::computed_ms`]: when that began.
    pub computed_ms: i64,
    pub oldest_ms: i64,
    /// When it ends.
    pub ends: Ends,
    /// The data that it was computed from.
    pub days: DaysStamp,
    /// Whether a shard of the cluster did not answer. Such an answer is never stored.
    pub is_partial: bool,
}

/// How far ahead of this process's clock an answer may have been computed: clocks of instances differ a little.
const AHEAD_MS: i64 = 5_000;

/// Whether something is from a time that has not come: the clock it was computed by is wrong, or this one went back. Its
/// ends say nothing then.
pub(super) const fn is_ahead(computed_ms: i64, now_ms: i64) -> bool {
    computed_ms > now_ms.saturating_add(AHEAD_MS)
}

/// Whether a cached answer may be given to a reader: the stale-if-error policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Given as it is.
    Fresh,
    /// Given, and refreshed: its time is about to end.
    Ageing,
    /// Given only when there is no other: its time is over, or it is of older data, or from the future.
    StaleIfError,
    Unusable,
}

impl Freshness {
    /// What a look-up found, as it is counted.
    pub(super) const fn lookup(found: Option<Self>) -> Lookup {
        match found {
            Some(Self::Fresh) => Lookup::Hit,
            Some(Self::Ageing) => Lookup::Ageing,
            Some(Self::StaleIfError | Self::Unusable) => Lookup::Outdated,
            None => Lookup::Miss,
        }
    }
}

impl CachedAnswer {
    /// How fresh it is for a reader of `days`. While the versions are unknown, an answer of the versions that were last `proven` is as
    /// old as that proof.
    pub fn freshness(&self, days: DaysStamp, proven: Option<Proven>, policy: &Policy, now_ms: i64) -> Freshness {
        let right_ms = proven.filter(|proven| proven.days == self.days).map_or(i64::MIN, |proven| proven.at_ms);
        let ends = match days {
            DaysStamp::Unknown => policy.unversioned(self.ends, self.computed_ms.max(right_ms)),
            DaysStamp::Known { .. } => self.ends,
        };
        let is_of_these_days = days == DaysStamp::Unknown || days == self.days;
        if now_ms >= ends.keep_ms {
            Freshness::Unusable
        } else if !is_of_these_days || now_ms >= ends.end_ms || is_ahead(self.computed_ms, now_ms) {
            Freshness::StaleIfError
        } else if now_ms >= ends.ahead_ms {
            Freshness::Ageing
        } else {
            Freshness::Fresh
        }
    }

    /// For a reader; `None` when it is damaged.
    pub async fn open(self: Arc<Self>) -> Option<Entry> {
        let cached = Arc::clone(&self);
        let head = beside(self.body.work(), move || cached.body.open()).await??;
        let Self { computed_ms, oldest_ms, ends, .. } = *self;
        Some(Entry {
            head,
            etag: self.etag.clone(),
            computed_ms,
            oldest_ms,
            expires_ms: ends.end_ms,
            is_partial: self.is_partial,
        })
    }

    /// Bytes that it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.body.held().len() + self.etag.len() + size_of::<Self>()
    }

    /// Magic, checksum of the rest, times, days, raw length, length of the tag, tag, body; numbers little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let tag_length = u16::try_from(self.etag.len()).unwrap_or(0);
        let mut rest = Vec::with_capacity(64 + self.etag.len() + self.body.held().len());
        for time in [self.computed_ms, self.oldest_ms, self.ends.ahead_ms, self.ends.end_ms, self.ends.keep_ms] {
            rest.extend_from_slice(&time.to_le_bytes());
        }
        let (is_known, epoch, sum) = match self.days {
            DaysStamp::Known { epoch, sum } => (1, epoch, sum),
            DaysStamp::Unknown => (0, 0, 0),
        };
        for number in [is_known, epoch, sum] {
            rest.extend_from_slice(&number.to_le_bytes());
        }
        rest.extend_from_slice(&self.body.raw().to_le_bytes());
        rest.extend_from_slice(&tag_length.to_le_bytes());
        rest.extend_from_slice(self.etag.as_bytes().get(..usize::from(tag_length)).unwrap_or_default());
        rest.extend_from_slice(self.body.held());
        sealed(MAGIC, &rest)
    }

    /// How many bytes a written answer opens to, as it says; not checked.
    pub fn raw_bytes(written: &[u8]) -> usize {
        let raw = written.get(RAW_AT..).and_then(|mut rest| take(&mut rest)).map_or(0, u32::from_le_bytes);
        usize::try_from(raw).unwrap_or(usize::MAX).max(written.len())
    }

    /// Reads what [`CachedAnswer::encode`] wrote; `None` for anything else.
    pub fn decode(written: &[u8]) -> Option<Self> {
        let mut rest = unsealed(MAGIC, written)?;
        let mut time = || take(&mut rest).map(i64::from_le_bytes);
        let (computed_ms, oldest_ms) = (time()?, time()?);
        let (ahead_ms, end_ms, keep_ms) = (time()?, time()?, time()?);
        let mut number = || take(&mut rest).map(u64::from_le_bytes);
        let days = match (number()?, number()?, number()?) {
            (0, ..) => DaysStamp::Unknown,
            (_, epoch, sum) => DaysStamp::Known { epoch, sum },
        };
        let raw = take(&mut rest).map(u32::from_le_bytes)?;
        let tag_length = take(&mut rest).map(u16::from_le_bytes)?;
        let (tag, body) = rest.split_at_checked(usize::from(tag_length))?;
        Some(Self {
            body: Compressed::from_parts(Bytes::copy_from_slice(body), raw),
            etag: std::str::from_utf8(tag).ok()?.to_owned(),
            computed_ms,
            oldest_ms,
            ends: Ends { ahead_ms, end_ms, keep_ms },
            days,
            is_partial: false,
        })
    }
}

/// First bytes of a written answer.
const MAGIC: &[u8; 4] = b"THA4";

/// Where the raw length is: behind magic, checksum, five times and three numbers.
const RAW_AT: usize = 4 + 4 + 8 * 8;

/// Magic, checksum, rest.
pub(super) fn sealed(magic: &[u8; 4], rest: &[u8]) -> Vec<u8> {
    [magic.as_slice(), &crc32fast::hash(rest).to_le_bytes(), rest].concat()
}

/// The rest, if it is undamaged.
pub(super) fn unsealed<'a>(magic: &[u8; 4], written: &'a [u8]) -> Option<&'a [u8]> {
    let (checksum, rest) = written.strip_prefix(magic)?.split_first_chunk()?;
    (crc32fast::hash(rest) == u32::from_le_bytes(*checksum)).then_some(rest)
}

/// The next bytes.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    const POLICY: Policy = Policy { open: Duration::from_secs(60) };
    const NOW: DaysStamp = DaysStamp::Known { epoch: 1, sum: 7 };

    /// Computed at 1 s; refreshed ahead, over and forgotten 45 s, 60 s and an hour later.
    pub(crate) fn cached(body: impl Into<Bytes>) -> CachedAnswer {
        CachedAnswer {
            body: Compressed::of(&body.into()),
            etag: "W/\"a\"".into(),
            computed_ms: 1_000,
            oldest_ms: 500,
            ends: Ends { ahead_ms: 46_000, end_ms: 61_000, keep_ms: 3_601_000 },
            days: NOW,
            is_partial: false,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for cached in [
            cached("{\"data\":["),
            cached("[0]".repeat(5_000)),
            CachedAnswer { days: DaysStamp::Unknown, ..cached("") },
        ] {
            let written = cached.encode();
            assert_eq!(CachedAnswer::raw_bytes(&written), cached.body.work().max(written.len()));
            assert_eq!(CachedAnswer::decode(&written), Some(cached));
        }
    }

    #[test]
    fn any_damage_is_noticed() {
        let written = cached("{\"data\":[").encode();
        for length in 0..written.len() {
            assert_eq!(CachedAnswer::decode(&written[..length]), None, "cut to {length}");
        }
        for place in 0..written.len() {
            let mut damaged = written.clone();
            damaged[place] ^= 1;
            assert_eq!(CachedAnswer::decode(&damaged), None, "byte {place}");
        }
    }

    #[test]
    fn an_answer_is_fresh_then_refreshed_then_an_excuse() {
        let cached = cached("");
        let freshness = |days, now_ms| cached.freshness(days, None, &POLICY, now_ms);
        assert_eq!(
            [45_999, 46_000, 60_999, 61_000, 3_600_999, 3_601_000].map(|now| freshness(NOW, now)),
            [
                Freshness::Fresh,
                Freshness::Ageing,
                Freshness::Ageing,
                Freshness::StaleIfError,
                Freshness::StaleIfError,
                Freshness::Unusable
            ]
        );
        assert_eq!(
            freshness(DaysStamp::Known { epoch: 1, sum: 8 }, 2_000),
            Freshness::StaleIfError,
            "the days were written to"
        );
    }

    #[test]
    fn an_answer_from_the_future_is_an_excuse() {
        let cached = CachedAnswer { computed_ms: 10_000, ..cached("") };
        let freshness = [4_999, 5_000, 10_000].map(|now_ms| cached.freshness(NOW, None, &POLICY, now_ms));
        assert_eq!(freshness, [Freshness::StaleIfError, Freshness::Fresh, Freshness::Fresh]);
    }

    #[test]
    fn an_answer_without_versions_is_not_for_who_knows_them() {
        let unknown = CachedAnswer { days: DaysStamp::Unknown, ..cached("") };
        assert_eq!(unknown.freshness(NOW, None, &POLICY, 2_000), Freshness::StaleIfError);
        assert_eq!(unknown.freshness(DaysStamp::Unknown, None, &POLICY, 2_000), Freshness::Fresh);
        // Who does not know takes any, but not for long.
        let ends = Ends { ahead_ms: 2_700_000, end_ms: 3_600_000, ..unknown.ends };
        let closed = CachedAnswer { ends, days: NOW, ..unknown };
        let freshness = |proven, now_ms| closed.freshness(DaysStamp::Unknown, proven, &POLICY, now_ms);
        let alone = [45_999, 46_000, 61_000].map(|now_ms| freshness(None, now_ms));
        assert_eq!(alone, [Freshness::Fresh, Freshness::Ageing, Freshness::StaleIfError]);
        // It was right when somebody could last say.
        let proven = Some(Proven { days: NOW, at_ms: 500_000 });
        assert_eq!(
            [501_000, 560_000].map(|now_ms| freshness(proven, now_ms)),
            [Freshness::Fresh, Freshness::StaleIfError]
        );
        let other = Some(Proven { days: DaysStamp::Known { epoch: 1, sum: 8 }, at_ms: 500_000 });
        assert_eq!(freshness(other, 501_000), Freshness::StaleIfError);
    }

    #[tokio::test]
    async fn a_reader_is_told_the_age_of_the_oldest_part_and_what_remains() {
        let entry = Arc::new(cached("x")).open().await.unwrap();
        assert_eq!((entry.age_s(3_500), entry.remaining_s(3_500)), (3, 57));
    }
}
