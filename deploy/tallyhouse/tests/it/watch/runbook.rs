//! Reads runbooks, and runs their commands as somebody on call pastes them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::time::timeout;

use super::files::{below, read, repository};

/// The parts of each runbook, in this order.
pub const PARTS: [&str; 6] = ["Meaning", "Impact", "Check", "Act", "Escalate", "Prevent"];

/// The longest that the commands of a block may take.
const WITHIN: Duration = Duration::from_secs(90);

pub struct Runbook {
    pub name: String,
    pub text: String,
}

/// Commands that are pasted together.
pub struct Block {
    pub commands: String,
    /// What their output has in it.
    pub shows: Vec<String>,
}

pub fn all() -> Vec<Runbook> {
    let named = below("runbooks", ".md").into_iter().map(|path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Runbook { name, text: read(path) }
    });
    named.filter(|runbook| runbook.name != "README").collect()
}

impl Runbook {
    pub fn named(name: &str) -> Self {
        all().into_iter().find(|runbook| runbook.name == name).unwrap_or_else(|| panic!("there is no runbook {name}"))
    }

    pub fn part(&self, part: &str) -> &str {
        let (_, rest) =
            self.text.split_once(&format!("\n## {part}\n")).unwrap_or_else(|| panic!("{}: no {part}", self.name));
        rest.split("\n## ").next().unwrap()
    }

    /// The `sh` blocks of a part.
    pub fn blocks(&self, part: &str) -> Vec<Block> {
        let fenced = self.part(part).split("```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
        fenced
            .map(|text| {
                let shows = text.lines().filter_map(|line| line.strip_prefix("# shows: "));
                Block { commands: text.to_owned(), shows: shows.map(str::to_owned).collect() }
            })
            .collect()
    }
}

/// A shell of somebody on call, on a machine of a system.
pub struct Shell {
    pub env: Vec<(String, String)>,
}

impl Shell {
    /// The same with more variables, which the commands of a runbook ask for.
    pub fn with(&self, more: &[(&str, &str)]) -> Self {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { env: self.env.iter().cloned().chain(more).collect() }
    }

    /// Runs the blocks of a part, one after the other; each has to end well and to show what it says.
    pub async fn run(&self, runbook: &str, part: &str) {
        let begun = Instant::now();
        for block in Runbook::named(runbook).blocks(part) {
            let (ended_well, output) = self.paste(&block.commands).await;
            let told = format!("{runbook}, {part}:\n{}\n---\n{output}", block.commands);
            assert!(ended_well, "{told}");
            for shown in &block.shows {
                assert!(output.contains(shown.as_str()), "it does not show `{shown}`: {told}");
            }
        }
        eprintln!("runbooks: {runbook}, {part}: {:.1} s", begun.elapsed().as_secs_f64());
    }

    /// Runs commands; whether they ended well, and all that they wrote.
    pub async fn paste(&self, commands: &str) -> (bool, String) {
        let script = format!("exec 2>&1\n. deploy/runbooks/env.sh\n{commands}");
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(repository());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env_remove("ADMIN_TOKEN").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        match timeout(WITHIN, command.output()).await {
            Ok(output) => {
                let output = output.unwrap();
                (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Err(_) => (false, format!("not done within {WITHIN:?}")),
        }
    }
}
