//! The report of a run, beside its targets.

use std::fmt;

use serde::Serialize;

use super::away::{Away, Given};
use super::closed_tabs::ClosedTabs;
use super::isolation::Isolation;
use super::killed_leader::Orphans;
use super::late::Late;
use super::redis::WithoutRedis;
use super::stampede::{Crowd, Expired};
use crate::bench::machine::Machine;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Events that were read from.
    pub events: u64,
    /// Crowds that ask for one expired answer.
    pub stampede: Vec<Crowd>,
    /// Leaders killed.
    pub holder: Orphans,
    pub redis: WithoutRedis,
    /// Dashboards beside ad hoc questions.
    pub isolation: Isolation,
    pub late: Late,
    pub tab: ClosedTabs,
    pub away: Away,
}

impl Report {
    /// What does not hold of what is promised whatever the machine: numbers of queries and of answers, not times.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for crowd in &self.stampede {
            let Crowd { connections, queries, answers: [.., others], .. } = crowd;
            if *queries > crowd.allowed() || *others > 0 {
                broken.push(format!("{connections} connections cost {queries} queries, {others} without an answer"));
            }
        }
        let Orphans { most_queries, unanswered, .. } = &self.holder;
        if *most_queries > 2 || *unanswered > 0 {
            broken.push(format!("a killed leader cost {most_queries} queries and left {unanswered} without an answer"));
        }
        let redis = [&self.redis.with, &self.redis.hangs, &self.redis.refuses];
        let refused: u64 = redis.map(|part| part.total() - part.latency.count).iter().sum();
        if refused > 0 {
            broken.push(format!("{refused} dashboards were not answered with or without Redis"));
        }
        if self.late.never > 0 {
            broken.push(format!("{} late events were not shown", self.late.never));
        }
        for Given { dashboards, .. } in [&self.away.refuses, &self.away.hangs] {
            let others = dashboards.total() - dashboards.count("200 STALE") - dashboards.count("200 HIT");
            if others > 0 {
                broken.push(format!("{others} cached dashboards were not answered while ClickHouse was away"));
            }
        }
        broken
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, events, stampede, holder, redis, isolation, late, tab, away } = self;
        writeln!(f, "{machine}")?;
        writeln!(f, "{events} events; two instances, panels of 7 days by hour")?;
        writeln!(f, "stampede on one expired answer (aim: as many queries as one reader alone, p99 < 50 ms)")?;
        stampede.iter().try_for_each(|crowd| crowd_line(f, crowd))?;
        let Orphans { rounds, followers, most_queries, unanswered, waited } = holder;
        writeln!(
            f,
            "who computes is killed, {rounds} times under {followers} waiting readers (aim: at most 2 queries)"
        )?;
        writeln!(
            f,
            "  at most {most_queries} queries, {unanswered} readers without an answer; answered after {waited}"
        )?;
        writeln!(f, "uncached panels without Redis (aim: within 2 x)")?;
        writeln!(f, "  with          {}", redis.with.latency)?;
        for (name, without) in [("it hangs  ", &redis.hangs), ("it refuses", &redis.refuses)] {
            let (slower, ends) = (ratio(without.latency.p99_ms, redis.with.latency.p99_ms), without.ends());
            writeln!(f, "  {name}    {}: p99 {slower:.2} x ({ends})", without.latency)?;
        }
        isolated(f, isolation)?;
        writeln!(f, "a late event in a cached day, from its acknowledgement to both instances (aim: < 1 s)")?;
        writeln!(f, "  {}, {} not within 10 s", late.shown, late.never)?;
        writeln!(f, "a closed tab, until its query is gone (aim: < 1 s)")?;
        for (name, closed) in [("/v1/query", &tab.funnels), ("/v1/sql  ", &tab.sql)] {
            writeln!(f, "  {name} {}, {} stopped", closed.gone, closed.stopped)?;
        }
        writeln!(f, "without ClickHouse (aim: cached dashboards go on, ad hoc questions get 503)")?;
        given(f, "refuses", &away.refuses)?;
        given(f, "hangs", &away.hangs)?;
        match self.broken().as_slice() {
            [] => write!(f, "all promises of numbers hold"),
            broken => write!(f, "BROKEN: {}", broken.join("; ")),
        }
    }
}

fn crowd_line(f: &mut fmt::Formatter<'_>, crowd: &Crowd) -> fmt::Result {
    let Crowd { expired, connections, requests, queries, alone, redis_errors, took_ms, answers, latency } = crowd;
    let expired = match expired {
        Expired::Absent => "absent",
        Expired::Stale => "stale ",
    };
    let [hit, miss, stale, coalesced, others] = answers;
    writeln!(
        f,
        "  {expired} {requests} requests over {connections} connections: {queries} queries (alone {alone}), {latency}"
    )?;
    writeln!(
        f,
        "         HIT {hit}, MISS {miss}, STALE {stale}, COALESCED {coalesced}, others {others}, all within {took_ms} ms; Redis no help {redis_errors} x"
    )
}

fn isolated(f: &mut fmt::Formatter<'_>, isolation: &Isolation) -> fmt::Result {
    let Isolation { rounds, outstanding, alone, beside, ad_hoc } = isolation;
    let ratio = |of: fn(&crate::bench::quantiles::Quantiles) -> f64| ratio(of(&beside.latency), of(&alone.latency));
    writeln!(
        f,
        "uncached panels beside {outstanding} ad hoc questions, {rounds} rounds of each (aim: p99 within 1.2 x)"
    )?;
    writeln!(f, "  alone  {} ({})", alone.latency, alone.ends())?;
    writeln!(f, "  beside {} ({})", beside.latency, beside.ends())?;
    writeln!(f, "  p50 {:.2} x, p99 {:.2} x; ad hoc ended: {ad_hoc:?}", ratio(|q| q.p50_ms), ratio(|q| q.p99_ms))
}

fn given(f: &mut fmt::Formatter<'_>, how: &str, given: &Given) -> fmt::Result {
    let Given { dashboards, ad_hoc } = given;
    writeln!(f, "  it {how}: dashboards {} ({}); ad hoc {}", dashboards.latency, dashboards.ends(), ad_hoc.ends())
}

fn ratio(this: f64, that: f64) -> f64 {
    if that > 0.0 { this / that } else { f64::NAN }
}
