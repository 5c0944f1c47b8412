//! The instant of the newest event that an answer counts: looked up in finer tables, of the last bucket alone, and remembered
//! like parts, so that the panels of a dashboard share it. Measures and groups are all the same to it.
//!
//! It is worth little beside the answer itself: where it would be dear, or cannot be had in time, the start of the bucket is
//! told, and how wide that is.

use std::time::Duration;

use super::Execution;
use super::chunked::{Kind, split};
use crate::authorize::Scope;
use crate::cache::{PartKey, Stamp};
use crate::plan::chunks::Chunk;
use crate::plan::newest::{Newest, Precision, finer};
use crate::plan::read::Read;
use crate::sql::{self, Instant, Point, Statement};
use crate::store::ReadError;

/// How long an answer waits for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The newest event of a reading without groups.
struct Instants;

impl Kind for Instants {
    type Row = Instant;
    type Part = Vec<i64>;
    const IS_DATA: bool = false;
    const IS_ASKED: bool = false;

    fn points(_: &Vec<i64>) -> usize {
        0
    }

    fn key(scope: &Scope, Chunk { read, .. }: &Chunk, stamp: Stamp) -> PartKey {
        PartKey::of(scope, &("newest", &read.source, &read.condition, read.from, read.to), stamp)
    }

    fn statement(all: &Read, _: &[Chunk], project: &str) -> Option<Statement> {
        Some(sql::newest(all, project))
    }

    fn split(chunks: &[Chunk], rows: Vec<Instant>) -> Result<Vec<Vec<i64>>, ReadError> {
        let parts = split(chunks, rows, |row| row.at_ms.div_euclid(1_000)).into_iter();
        Ok(parts.map(|part| part.into_iter().map(|row| row.at_ms).collect()).collect())
    }
}

impl Execution {
    /// The newest event of all groups of these readings; the points are what each found.
    pub(super) async fn newest(&mut self, found: &[(&Read, &[Point])]) -> Option<Newest> {
        let of_points = |(read, points): &(&Read, &[Point])| {
            let at_s = points.iter().map(|point| point.newest).max()?;
            Some(Newest::of_points(&read.source, at_s))
        };
        let coarse = found.iter().filter_map(of_points).max();
        let looked_up = tokio::time::timeout(PATIENCE, self.looked_up(found, of_points)).await;
        looked_up.ok().flatten().or(coarse)
    }

    /// Of a reading of which it is known in which bucket that is.
    pub(super) async fn newest_of(&mut self, read: &Read, at_s: Option<i64>) -> Option<Newest> {
        let at = at_s?;
        let point = Point { at, groups: Vec::new(), measured: Vec::new(), newest: at, rank: 1 };
        self.newest(&[(read, &[point])]).await
    }

    async fn looked_up(
        &mut self,
        found: &[(&Read, &[Point])],
        of_points: impl Fn(&(&Read, &[Point])) -> Option<Newest>,
    ) -> Option<Newest> {
        let mut newest: Option<Newest> = None;
        for reading in found {
            let Some(coarse) = of_points(reading) else { continue };
            let (read, points) = reading;
            let is_cut_off = read.top.is_some_and(|most| points.iter().any(|point| point.rank > most));
            if newest.is_none_or(|newest| is_cut_off || newest.at_ms < coarse.end_ms()) {
                newest = newest.max(Some(self.instant(read, coarse, is_cut_off).await));
            }
        }
        newest
    }

    async fn instant(&mut self, read: &Read, coarse: Newest, is_cut_off: bool) -> Newest {
        let mut newest = coarse;
        if is_cut_off {
            // A group that was left out may have a newer one.
            let since = Read { to: read.to, ..newest.look(read, read.source.clone()) };
            newest = self.look(since).await.unwrap_or(newest);
        }
        for source in finer(&read.source, &newest, self.moment.now_ms.div_euclid(1_000)) {
            newest = self.look(newest.look(read, source)).await.unwrap_or(newest);
        }
        newest
    }

    async fn look(&mut self, read: Read) -> Option<Newest> {
        let precision = Precision::of(&read.source);
        let chunk = Chunk::whole(read, self.moment.now_ms.div_euclid(1_000));
        let parts = self.parts::<Instants>(&[chunk]).await.ok()?;
        let at_ms = parts.into_iter().flatten().next()?;
        Some(Newest { at_ms, precision })
    }
}
