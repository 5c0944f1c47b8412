//! Alerts fire and stay silent as their cases say; they name metrics that exist, and runbooks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::files::{alerts, below, deploy, read, repository};

/// Runs a tool over files at once, one process each; fails with what those say that end badly.
fn check(tool: &[&str], files: &[PathBuf]) {
    let run = |file: &PathBuf| {
        let mut command = Command::new(tool[0]);
        command.args(&tool[1..]).arg(file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(
            |error| panic!("{}: {error}; `deploy/tallyhouse/setup.sh --tests` installs what tests need", tool[0]),
        )
    };
    let running: Vec<_> = files.iter().map(|file| (file, run(file))).collect();
    for (file, child) in running {
        let output = child.wait_with_output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{tool:?} {}:\n{}", file.display(), String::from_utf8_lossy(&told));
    }
}

#[test]
fn rules_are_understood_and_do_what_their_cases_say() {
    check(&["promtool", "check", "config"], &[deploy("prometheus/prometheus.yml")]);
    check(&["promtool", "check", "rules"], &below("prometheus", ".rules.yml"));
    check(&["promtool", "test", "rules"], &below("prometheus/tests", ".yml"));
    check(&["amtool", "check-config"], &[deploy("prometheus/alertmanager.yml")]);
}

#[test]
fn each_alert_fires_in_one_case_and_stays_silent_in_another() {
    let mut cases: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for file in below("prometheus/tests", ".yml") {
        let text = read(file);
        for case in text.split("alertname: ").skip(1) {
            let (name, rest) = case.split_once('\n').unwrap();
            let fires = match rest.trim_start().strip_prefix("exp_alerts:") {
                Some(expected) => !expected.trim_start().starts_with("[]"),
                None => panic!("{name}: a case without exp_alerts"),
            };
            cases.entry(name.to_owned()).or_default().insert(fires);
        }
    }
    for name in alerts().keys() {
        let of = cases.remove(name).unwrap_or_default();
        assert!(of.contains(&true), "{name} fires in no case");
        assert!(of.contains(&false), "{name} stays silent in no case");
    }
    assert!(cases.is_empty(), "cases of no alert: {cases:?}");
}

#[test]
fn each_alert_says_how_urgent_it_is_what_happened_and_what_to_do() {
    for (name, alert) in alerts() {
        assert!(["page", "ticket", "info"].contains(&alert.severity.as_str()), "{name}: {alert:?}");
        assert!(alert.summary.ends_with('.'), "{name}: {alert:?}");
        assert!(alert.runbook.starts_with("deploy/runbooks/"), "{name}: {alert:?}");
        assert!(repository().join(&alert.runbook).is_file(), "{name}: there is no {}", alert.runbook);
        assert!(
            read(repository().join(&alert.runbook)).contains(&format!("`{name}`")),
            "{} does not name {name}",
            alert.runbook
        );
    }
}
