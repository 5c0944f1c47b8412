//! Signals: the engine stands still, and the terminal of the service goes.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::{Scale, Target};

/// Longer than a service waits before it kills an engine that answers nobody.
const KILLED_WITHIN: Duration = Duration::from_secs(100);

/// Longer than a service drains.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(100);

/// For good, until it is started again; in the short form for a moment, after which it goes on.
pub(super) async fn stop_engine(target: &Target) -> Result<Findings, SiegeError> {
    let mut findings = Findings::default();
    let began = Instant::now();
    findings.expect(target.signal_engine(Signal::STOP), || "there was no engine".to_owned());
    if target.scale == Scale::Short {
        sleep(target.scale.lasts()).await;
        target.signal_engine(Signal::CONT);
        findings.note("it stood still and went on".to_owned());
        return Ok(findings);
    }
    while target.engine_lives() && began.elapsed() < KILLED_WITHIN {
        sleep(POLL).await;
    }
    let is_replaced = !target.engine_lives();
    target.signal_engine(Signal::CONT);
    findings.expect(is_replaced, || format!("it stood still for {KILLED_WITHIN:?}, and nobody ended it"));
    findings.note(format!("ended after {:.1} s", began.elapsed().as_secs_f64()));
    Ok(findings)
}

pub(super) async fn hang_up(target: &Target) -> Result<Findings, SiegeError> {
    let began = Instant::now();
    target.signal_service(Signal::HUP)?;
    while target.service_lives() && began.elapsed() < ENDS_WITHIN {
        sleep(POLL).await;
    }
    let mut findings = Findings::default();
    findings.note(match target.service_lives() {
        true => "it goes on".to_owned(),
        false => format!("it ended after {:.1} s", began.elapsed().as_secs_f64()),
    });
    Ok(findings)
}
