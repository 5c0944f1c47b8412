//! What came of a siege: a row per attack, and whether all of it held.

use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

use super::attacks::{Attack, Findings, Process};
use super::bystander::{Kind, Served};
use super::watch::Seen;
use crate::verify::Verification;

/// Of the bystander's requests, how many are served at least.
const SERVED_PERCENT: f64 = 99.0;

/// What became of the attack and of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) findings: Findings,
    /// From the end of the attack until everything was served; `None`: it was not.
    pub(super) recovered: Option<Duration>,
    /// The service was gone, and was started again.
    pub(super) ended_with: Option<ExitStatus>,
}

/// One attack.
pub(super) struct Row {
    pub(super) attack: &'static Attack,
    pub(super) served: Vec<Served>,
    pub(super) seen: Seen,
    pub(super) outcome: Outcome,
}

impl Row {
    /// What did not hold.
    pub(super) fn broken(&self) -> Vec<String> {
        let promise = self.attack.promise;
        let unserved = self
            .served
            .iter()
            .filter(|served| promise.served.contains(&served.kind) && served.percent() < SERVED_PERCENT);
        let mut broken: Vec<String> =
            unserved.map(|served| format!("{:?}: {} of {} served", served.kind, served.served, served.sent)).collect();
        let mut expect = |holds: bool, otherwise: String| {
            if !holds {
                broken.push(otherwise);
            }
        };
        if let Some(status) = self.outcome.ended_with {
            let in_order = promise.service == Process::MayEnd && status.success();
            expect(in_order, format!("the service ended: {status}"));
        }
        expect(self.outcome.recovered.is_some(), "the bystander was not served again".to_owned());
        let restarts = self.seen.engine_restarts;
        expect(
            restarts == 0 || promise.engine == Process::MayEnd,
            format!("the engine was started again {restarts} times"),
        );
        let peak = self.seen.service_peak;
        let limit = promise.memory.unwrap_or(u64::MAX);
        expect(peak <= limit, format!("the service took {} MB, more than {}", mb(peak), mb(limit)));
        broken.extend(self.outcome.findings.broken.iter().cloned());
        broken
    }

    /// In a line, while the siege goes on.
    pub(super) fn verdict(&self) -> String {
        let broken = self.broken();
        let verdict = if broken.is_empty() { "held".to_owned() } else { format!("BROKEN: {}", broken.join("; ")) };
        format!("{}: {verdict}", self.attack.name)
    }

    fn of(&self, kind: Kind) -> Option<&Served> {
        self.served.iter().find(|served| served.kind == kind)
    }
}

fn mb(bytes: u64) -> u64 {
    bytes / 1_000_000
}

/// A row of the table.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} |", self.attack.name)?;
        for kind in Kind::ALL {
            match self.of(kind) {
                Some(served) => write!(f, " {:.1} |", served.percent())?,
                None => write!(f, " - |")?,
            }
        }
        for kind in [Kind::Ingest, Kind::Query] {
            match self.of(kind).map(|served| served.latencies) {
                Some(of) => write!(f, " {:.0} / {:.0} |", of.p50_ms, of.p99_ms)?,
                None => write!(f, " - |")?,
            }
        }
        let Seen { service_before, service_peak, engine_peak, engine_restarts } = self.seen;
        write!(f, " {} -> {} | {} | {engine_restarts} |", mb(service_before), mb(service_peak), mb(engine_peak))?;
        match self.outcome.recovered {
            Some(after) => write!(f, " {:.1} |", after.as_secs_f64())?,
            None => write!(f, " never |")?,
        }
        let verdict = if self.broken().is_empty() { "held" } else { "**broken**" };
        write!(f, " {verdict} | {} |", self.outcome.findings.notes.join(", "))
    }
}

/// What came of it.
pub struct SiegeReport {
    pub(super) rows: Vec<Row>,
    /// Everything that was acknowledged, compared with what is stored.
    pub verification: Verification,
}

impl SiegeReport {
    /// What did not hold, by attack.
    pub fn broken(&self) -> Vec<String> {
        let of_row = |row: &Row| row.broken().into_iter().map(|what| format!("{}: {what}", row.attack.name));
        let mut broken: Vec<String> = self.rows.iter().flat_map(of_row).collect();
        if !self.verification.is_exact() {
            broken.push(self.verification.to_string());
        }
        broken
    }
}

impl fmt::Display for SiegeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| attack | ingest served % | query served % | admin served % | ingest p50 / p99 ms | query p50 / p99 ms | \
             service MB, before -> peak | engine MB, peak | engine restarts | recovered after s | | what was done |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        write!(f, "\n{}", self.verification)
    }
}

#[cfg(test)]
mod tests {
    use super::super::attacks;
    use super::*;
    use crate::bench::quantiles::Latencies;

    fn row(attack: &str) -> Row {
        let served =
            |kind| Served { kind, sent: 100, served: 99, latencies: Latencies::new().quantiles(), refusal: None };
        let outcome = Outcome { findings: Findings::default(), recovered: Some(Duration::ZERO), ended_with: None };
        Row {
            attack: attacks::ALL.iter().find(|known| known.name == attack).unwrap(),
            served: Kind::ALL.map(served).into(),
            seen: Seen::default(),
            outcome,
        }
    }

    #[test]
    fn what_is_promised_depends_on_the_attack() {
        let breaks: [fn(&mut Row); 6] = [
            |row| row.served[1].served = 98,
            |row| row.seen.engine_restarts = 1,
            |row| row.seen.service_peak = 301_000_000,
            |row| row.outcome.recovered = None,
            |row| row.outcome.ended_with = Some(ExitStatus::default()),
            |row| row.outcome.findings.broken.push("told".to_owned()),
        ];
        let broken = |attack: &str| {
            assert_eq!(row(attack).broken(), Vec::<String>::new(), "{attack}");
            breaks.map(|break_it| {
                let mut row = row(attack);
                break_it(&mut row);
                !row.broken().is_empty()
            })
        };
        assert_eq!(broken("streams"), [true, true, false, true, true, true]);
        assert_eq!(broken("gzip bombs"), [true; 6]);
        assert_eq!(broken("engine, SIGSTOP"), [false, false, false, true, true, true]);
        assert_eq!(broken("service, SIGHUP"), [false, false, false, true, false, true]);
    }
}
