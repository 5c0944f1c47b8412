//! The age of an answer that is joined from parts which were read at different times.

use crate::plan::chunks::Chunk;

/// In milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age {
    /// When the oldest part was read. A part that is over may be an hour old, and is right all the same: the versions of its
    /// days were compared.
    pub(super) oldest_ms: i64,
    /// Up to when the answer counts what happens: when the oldest part was read that was not over then. The bucket of this
    /// moment is the one that is not whole.
    pub(super) seen_ms: i64,
}

impl Age {
    /// All of it is read now.
    pub(super) const fn of(now_ms: i64) -> Self {
        Self { oldest_ms: now_ms, seen_ms: now_ms }
    }

    /// A part is joined that was read then.
    pub(super) fn joined(&mut self, read_ms: i64, chunk: &Chunk) {
        self.oldest_ms = self.oldest_ms.min(read_ms);
        if read_ms.div_euclid(1_000) < chunk.read.to {
            self.seen_ms = self.seen_ms.min(read_ms);
        }
    }

    /// As `generated_s` of the renderers.
    pub(super) const fn seen_s(&self) -> i64 {
        self.seen_ms.div_euclid(1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::Condition;
    use crate::plan::read::{Read, Source};

    #[test]
    fn a_part_that_is_over_makes_the_answer_older_and_hides_nothing() {
        let chunk = |from, to| {
            let (condition, by, measures) = (Condition::always(), Vec::new(), Vec::new());
            let read = Read { source: Source::Raw, condition, from, to, buckets: None, by, measures, top: None };
            Chunk { read, is_closed: to <= 100 }
        };
        let mut age = Age::of(205_000);
        age.joined(120_000, &chunk(0, 100));
        assert_eq!(age, Age { oldest_ms: 120_000, seen_ms: 205_000 });
        age.joined(199_999, &chunk(100, 300));
        assert_eq!((age.oldest_ms, age.seen_s()), (120_000, 199));
        // It was read while it was not over, and is over by now.
        age.joined(199_999, &chunk(100, 200));
        assert_eq!(age.seen_ms, 199_999);
    }
}
