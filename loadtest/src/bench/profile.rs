//! Profiles the processor time of the ingester with `perf`, when asked for and installed.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

/// Lines of the report that are kept.
const LINES: usize = 25;

/// A recording under way, or the reason why there is none.
#[derive(Debug)]
pub enum Profiling {
    /// Nobody asked.
    Off,
    /// `perf` records.
    Recording {
        /// The process.
        perf: Child,
        /// What it writes.
        file: PathBuf,
    },
    /// It cannot be done.
    Impossible(String),
}

/// Starts to record the process for this long.
pub fn start(wanted: bool, pid: Option<i32>, lasts: Duration) -> Profiling {
    if !wanted {
        return Profiling::Off;
    }
    let Some(pid) = pid else { return Profiling::Impossible("the ingester's process is not known".to_owned()) };
    let file = std::env::temp_dir().join(format!("tallyhouse-{}.perf", std::process::id()));
    let recording = Command::new("perf")
        .args(["record", "-F", "199", "-g", "-p", &pid.to_string(), "-o"])
        .arg(&file)
        .args(["--", "sleep", &lasts.as_secs().max(1).to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    match recording {
        Ok(perf) => Profiling::Recording { perf, file },
        Err(error) => Profiling::Impossible(format!("perf cannot be started: {error}")),
    }
}

impl Profiling {
    /// The functions with the most time of their own, or why they are not known. `None` when nobody asked.
    pub async fn finish(self) -> Option<String> {
        match self {
            Self::Off => None,
            Self::Impossible(why) => Some(format!("no profile: {why}")),
            Self::Recording { mut perf, file } => {
                let recorded = perf.wait().await.is_ok_and(|status| status.success());
                let report = if recorded { report(&file).await } else { None };
                // Best effort: it lies in the directory for temporary files.
                drop(std::fs::remove_file(&file));
                Some(
                    report.unwrap_or_else(|| {
                        "no profile: perf recorded nothing (kernel.perf_event_paranoid?)".to_owned()
                    }),
                )
            }
        }
    }
}

async fn report(file: &std::path::Path) -> Option<String> {
    let output = Command::new("perf")
        .args(["report", "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.5", "-i"])
        .arg(file)
        .stderr(Stdio::null())
        .output()
        .await
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).take(LINES).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}
