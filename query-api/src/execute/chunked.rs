//! Reads in chunks: those that are cached or in flight, and the others, neighbours in one statement.

use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tallyhouse_sql::clickhouse::{RowOwned, RowRead};

use super::sums::Together;
use super::{Execution, Recall, bounded};
use crate::authorize::Scope;
use crate::cache::in_flight::{PartOwner, PartWaiter, Reservation};
use crate::cache::parts::{CachedPart, ComputedPart};
use crate::cache::time_span::TimeSpan;
use crate::cache::ttl::Life;
use crate::cache::{PartKey, VersionStamp};
use crate::plan::chunks::{Chunk, cut};
use crate::plan::read::Read;
use crate::sql::{self, Point, Statement};
use crate::store::ReadError;

/// What is read of chunks, and remembered of each.
pub(super) trait Kind {
    /// A row of the answer for neighbouring chunks.
    type Row: RowOwned + RowRead + DeserializeOwned;
    /// What is remembered of one.
    type Part: Serialize + DeserializeOwned;
    /// Whether it is what was asked for, so that its age is the answer's.
    const IS_DATA: bool;
    /// Whether the answer needs it; else it is looked up beside the answer, and counted apart.
    const IS_ASKED: bool;

    /// How many points a part is.
    fn points(part: &Self::Part) -> usize;

    /// What a chunk is remembered under.
    fn key(scope: &Scope, chunk: &Chunk, stamp: VersionStamp) -> PartKey;

    /// The statement for neighbours, which `all` reads at once; `None` when there is nothing to ask.
    fn statement(all: &Read, chunks: &[Chunk], project: &str) -> Option<Statement>;

    /// The rows of each chunk, in order.
    fn split(chunks: &[Chunk], rows: Vec<Self::Row>) -> Result<Vec<Self::Part>, ReadError>;
}

/// The points of a series.
pub(super) struct Points;

impl Kind for Points {
    type Row = Point;
    type Part = Vec<Point>;
    const IS_DATA: bool = true;
    const IS_ASKED: bool = true;

    fn points(part: &Vec<Point>) -> usize {
        part.len()
    }

    fn key(scope: &Scope, chunk: &Chunk, stamp: VersionStamp) -> PartKey {
        PartKey::of(scope, &chunk.read, stamp)
    }

    fn statement(all: &Read, _: &[Chunk], project: &str) -> Option<Statement> {
        Some(sql::read(all, project))
    }

    fn split(chunks: &[Chunk], points: Vec<Point>) -> Result<Vec<Vec<Point>>, ReadError> {
        Ok(split(chunks, bounded(points)?, |point| point.at))
    }
}

impl Execution {
    /// The points of a reading, in chunks where it can be cut.
    pub(super) async fn points(&mut self, read: &Read) -> Result<Vec<Point>, ReadError> {
        let together = Together::of(read);
        let Some(cut) = cut(&together.read, self.moment.now_ms.div_euclid(1_000)) else { return self.read(read).await };
        let parts = self.parts::<Points>(&cut.chunks).await?;
        let kept = parts.into_iter().flatten().filter(|point| cut.keeps(point.at));
        bounded(kept.map(|point| together.asked(point)).collect())
    }

    /// What there is of each chunk, in order.
    pub(super) async fn parts<K: Kind>(&mut self, chunks: &[Chunk]) -> Result<Vec<K::Part>, ReadError> {
        let keys = self.keys::<K>(chunks).await;
        let mut parts = self.remembered::<K>(chunks, &keys).await?;
        while parts.iter().any(Option::is_none) {
            let work = self.work(&keys, &parts);
            self.compute::<K>(chunks, &keys, &work, &mut parts).await?;
            // All owned parts are published or dropped before the first of the others' is waited for.
            let waiters: Vec<_> = work.into_iter().map(PartWork::waiter).collect();
            for ((slot, chunk), waiter) in parts.iter_mut().zip(chunks).zip(waiters) {
                let Some(waiter) = waiter else { continue };
                if let Some(part) = self.sources.parts.awaited(waiter).await {
                    *slot = self.recalled::<K>(&part, chunk)?;
                }
            }
        }
        Ok(parts.into_iter().flatten().collect())
    }

    /// Who computes each of the missing parts: this execution, or another that has reserved it.
    fn work<P>(&self, keys: &[PartKey], parts: &[Option<P>]) -> Vec<PartWork> {
        let is_shared = self.moment.recall.allows_in_flight();
        let reserved: Vec<bool> = parts.iter().map(|part| part.is_none() && is_shared).collect();
        let wanted = keys.iter().zip(&reserved).filter_map(|(key, is_reserved)| is_reserved.then_some(key));
        let mut reservations = self.sources.parts.reserve(self.ask.class, wanted).into_iter();
        let of_part = |(part, is_reserved): (&Option<P>, bool)| match (part, is_reserved) {
            (Some(_), _) => PartWork::Done,
            (None, false) => PartWork::Owner(None),
            (None, true) => match reservations.next() {
                Some(Reservation::Waiter(waiter)) => PartWork::Waiter(waiter),
                Some(Reservation::Owner(owner)) => PartWork::Owner(Some(owner)),
                None => PartWork::Owner(None),
            },
        };
        parts.iter().zip(reserved).map(of_part).collect()
    }

    /// Reads the owned parts, publishes them to their waiters, and caches them.
    async fn compute<K: Kind>(
        &mut self,
        chunks: &[Chunk],
        keys: &[PartKey],
        work: &[PartWork],
        parts: &mut [Option<K::Part>],
    ) -> Result<(), ReadError> {
        let (read_ms, mut computed) = (self.moment.now_ms, Vec::new());
        for run in runs(work) {
            let asked = chunks.get(run.clone()).unwrap_or_default();
            let (Some(first), Some(last)) = (asked.first(), asked.last()) else { continue };
            let rows = match K::statement(&joined(first, last), asked, self.scope.project()) {
                Some(statement) => self.ask(&statement).await?,
                None => Vec::new(),
            };
            if !K::IS_ASKED {
                self.sources.store.looked_beside();
            }
            for ((place, chunk), part) in run.zip(asked).zip(K::split(asked, rows)?) {
                self.budget.take(K::points(&part))?;
                if self.cost.is_partial {
                    // Nobody else is given it: who waits for it asks by itself.
                    if let Some(slot) = parts.get_mut(place) {
                        *slot = Some(part);
                    }
                    continue;
                }
                let life = if chunk.is_closed { Life::Closed } else { Life::Open };
                if let (Some(key), Ok(written)) = (keys.get(place), postcard::to_stdvec(&part)) {
                    let bytes = Bytes::from(written);
                    if let Some(PartWork::Owner(Some(owner))) = work.get(place) {
                        owner.publish(CachedPart { bytes: bytes.clone(), read_ms });
                    }
                    let reach = self.moment.recall.reach(chunk.is_closed);
                    computed.push(ComputedPart { key: key.clone(), bytes, life, reach });
                }
                if let Some(slot) = parts.get_mut(place) {
                    *slot = Some(part);
                }
            }
        }
        self.sources.parts.put_many(computed, read_ms).await;
        Ok(())
    }

    async fn keys<K: Kind>(&self, chunks: &[Chunk]) -> Vec<PartKey> {
        let mut keys = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let span = TimeSpan::between(chunk.read.from, chunk.read.to).span(self.moment.now_ms);
            let stamp = self.sources.versions.stamp(self.scope.project(), &span, &self.redis_time).await;
            keys.push(K::key(&self.scope, chunk, stamp));
        }
        keys
    }

    async fn remembered<K: Kind>(
        &mut self,
        chunks: &[Chunk],
        keys: &[PartKey],
    ) -> Result<Vec<Option<K::Part>>, ReadError> {
        let recall = self.moment.recall;
        if recall == Recall::Nothing {
            return Ok(chunks.iter().map(|_| None).collect());
        }
        let found = self.sources.parts.get_many(keys, &self.redis_time).await;
        let recalled = |(part, chunk): (Option<CachedPart>, &Chunk)| match part {
            Some(part) if recall.allows(chunk.is_closed, part.read_ms) => self.recalled::<K>(&part, chunk),
            Some(_) | None => Ok(None),
        };
        found.into_iter().zip(chunks).map(recalled).collect()
    }

    /// A part that was read before, or for somebody else. One that cannot be decoded is as good as none.
    fn recalled<K: Kind>(&mut self, part: &CachedPart, chunk: &Chunk) -> Result<Option<K::Part>, ReadError> {
        let CachedPart { bytes, read_ms } = part;
        let Ok(part) = postcard::from_bytes(bytes) else { return Ok(None) };
        self.budget.take(K::points(&part))?;
        if K::IS_DATA {
            self.age.joined(*read_ms, chunk);
        }
        Ok(Some(part))
    }
}

/// What is to be done for a part.
enum PartWork {
    /// Nothing: it is there.
    Done,
    /// It is computed, for others too if it is reserved.
    Owner(Option<PartOwner>),
    /// It is waited for.
    Waiter(PartWaiter),
}

impl PartWork {
    fn waiter(self) -> Option<PartWaiter> {
        match self {
            Self::Waiter(waiter) => Some(waiter),
            Self::Done | Self::Owner(_) => None,
        }
    }
}

/// Runs of neighbouring parts that are computed here.
fn runs(work: &[PartWork]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (place, _) in work.iter().enumerate().filter(|(_, work)| matches!(work, PartWork::Owner(_))) {
        match runs.last_mut() {
            Some(run) if run.end == place => run.end += 1,
            _ => runs.push(place..place + 1),
        }
    }
    runs
}

/// One reading for neighbouring chunks.
fn joined(first: &Chunk, last: &Chunk) -> Read {
    let mut read = first.read.clone();
    read.to = last.read.to;
    if let Some(frame) = &mut read.buckets {
        frame.to = last.read.to;
    }
    read
}

/// The rows of each chunk. A bucket that begins before the first chunk belongs to it: the range began within it.
pub(super) fn split<R>(chunks: &[Chunk], rows: Vec<R>, at: impl Fn(&R) -> i64) -> Vec<Vec<R>> {
    let mut parts: Vec<Vec<R>> = chunks.iter().map(|_| Vec::new()).collect();
    for row in rows {
        let place = chunks.partition_point(|chunk| chunk.read.to <= at(&row));
        if let Some(part) = parts.get_mut(place) {
            part.push(row);
        }
    }
    parts
}
