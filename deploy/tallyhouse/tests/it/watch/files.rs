//! Reads what is shipped in `deploy/`, and names of metrics: in expressions, in sources, in what a service shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

pub fn deploy(path: &str) -> PathBuf {
    repository().join("deploy").join(path)
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder of `deploy/` that end in `ending`, in order.
pub fn below(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&deploy(folder), &mut |path| {
        if path.to_string_lossy().ends_with(ending) {
            found.push(path.to_owned());
        }
    });
    found.sort();
    assert!(!found.is_empty(), "no {ending} in deploy/{folder}");
    found
}

fn collect(folder: &Path, found: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, found) } else { found(&path) }
    }
}

/// An alert as `alerts.rules.yml` says it.
#[derive(Debug, Default, Clone)]
pub struct Alert {
    pub severity: String,
    pub summary: String,
    pub runbook: String,
}

/// The alerts by name. Names are unique: a test of one is a test of it.
pub fn alerts() -> BTreeMap<String, Alert> {
    let (mut alerts, mut name) = (BTreeMap::<String, Alert>::new(), String::new());
    for line in read(deploy("prometheus/alerts.rules.yml")).lines() {
        let line = line.trim();
        if let Some(next) = line.strip_prefix("- alert: ") {
            name = next.to_owned();
            assert!(alerts.insert(name.clone(), Alert::default()).is_none(), "{name} is there twice");
        }
        let Some(alert) = alerts.get_mut(&name) else { continue };
        if let Some((_, rest)) = line.split_once("severity: ") {
            alert.severity = rest.chars().take_while(char::is_ascii_alphabetic).collect();
        }
        if let Some(summary) = line.strip_prefix("summary: ") {
            alert.summary = summary.trim_matches('"').to_owned();
        }
        if let Some(runbook) = line.strip_prefix("runbook_url: ") {
            alert.runbook = runbook.to_owned();
        }
    }
    alerts
}

/// The names of our metrics and rules in an expression; the standard ones of processes and `up` too.
pub fn metrics_in(expression: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    // What stands in quotation marks are values of labels.
    let outside: String = expression.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let words = outside.split(|c| !is_part(c)).filter(|word| {
        ["tallyhouse_", "tallyhouse:", "process_", "ALERTS"].iter().any(|start| word.starts_with(start))
            || *word == "up"
    });
    words.map(str::to_owned).collect()
}

/// The metric that a series belongs to: histograms have three kinds of them.
pub fn family<'a>(series: &'a str, known: &BTreeSet<String>) -> &'a str {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|ending| series.strip_suffix(ending));
    of_histogram.filter(|family| known.contains(*family)).unwrap_or(series)
}

/// The names in the telemetry modules: a metric with labels shows itself only once something has happened.
pub fn metrics_in_sources() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for sources in ["ingest/src", "query-api/src", "deploy/service/src", "deploy/control/src", "deploy/tallyhouse/src"]
    {
        collect(&repository().join(sources), &mut |path| {
            let text = path.to_string_lossy();
            if !text.ends_with(".rs") || !["telemetry", "metrics"].iter().any(|module| text.contains(module)) {
                return;
            }
            let source = read(path);
            let literals = source.split('"').skip(1).step_by(2);
            names.extend(literals.filter(|text| is_name(text)).map(str::to_owned));
        });
    }
    names
}

fn is_name(text: &str) -> bool {
    ["tallyhouse_", "process_"].iter().any(|start| text.starts_with(start))
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The families that a service shows.
pub fn metrics_shown(exposition: &str) -> BTreeSet<String> {
    let types = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn names_are_found_in_expressions() {
    let found = metrics_in(
        r#"histogram_quantile(0.9, sum by (up_to) (rate(tallyhouse_a_seconds_bucket{code="tallyhouse_b"}[5m]))) > on (slo) tallyhouse:c:rate5m and up == 0"#,
    );
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        ["tallyhouse:c:rate5m", "tallyhouse_a_seconds_bucket", "up"]
    );
    let known = BTreeSet::from(["tallyhouse_a_seconds".to_owned()]);
    assert_eq!(family("tallyhouse_a_seconds_bucket", &known), "tallyhouse_a_seconds");
    assert_eq!(family("tallyhouse_row_count", &known), "tallyhouse_row_count");
}
