//! Signals: the engine stands still, and the terminal of the service goes.

use rustix::process::Signal;
use tokio::time::sleep;

use super::Findings;
use crate::siege::SiegeError;
use crate::siege::target::Target;

pub(super) async fn stop_engine(target: &Target) -> Result<Findings, SiegeError> {
    let mut findings = Findings::default();
    findings.expect(target.signal_engine(Signal::STOP), || "there was no engine".to_owned());
    sleep(target.scale.lasts()).await;
    // It may have been started again meanwhile.
    let went_on = target.signal_engine(Signal::CONT);
    findings.note(if went_on { "it went on" } else { "it was started again" }.to_owned());
    Ok(findings)
}

pub(super) async fn hang_up(target: &Target) -> Result<Findings, SiegeError> {
    target.signal_service(Signal::HUP)?;
    sleep(target.scale.lasts()).await;
    Ok(Findings::default())
}
