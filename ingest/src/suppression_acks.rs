//! Tells which suppressions apply to everything that this process stores from now on, so that an erasure can wait for it.
//!
//! Each start has a name of its own, which is kept beside the log. The next start goes on with what the log holds, and says so of the names that it
//! finds: until then an erasure tells that a process has not confirmed.
//!
//! A process that is killed, or that ClickHouse does not hear, is waited for until its row is old. What it stores later by a batch that
//! it began before counts as a leftover, which has the erasure look again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tallyhouse_control::privacy::suppressions::Suppressions;
use tallyhouse_service::private_file;
use tallyhouse_sql::clickhouse::Client;
use tallyhouse_sql::suppression_acks::{Ack, WRITE_EVERY, succeeded, write};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

const LOOK_EVERY: Duration = Duration::from_millis(250);

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Names of earlier processes, and of this one.
const FILE: &str = "suppression-processes";

/// Names that are kept, of processes that were killed before they could tell anything.
const NAMES: usize = 32;

/// The names of processes that stored from a folder.
struct Names {
    file: PathBuf,
    own: String,
    /// Earlier processes that are not yet marked as succeeded.
    earlier: Vec<String>,
}

impl Names {
    fn take(folder: &Path) -> io::Result<Self> {
        let (file, own) = (folder.join(FILE), Ulid::generate().to_string());
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let mut earlier: Vec<String> = text.lines().rev().take(NAMES).map(str::to_owned).collect();
        earlier.reverse();
        let names = Self { file, own, earlier };
        names.write()?;
        Ok(names)
    }

    fn write(&self) -> io::Result<()> {
        let lines = self.earlier.iter().chain([&self.own]).map(|name| format!("{name}\n"));
        private_file::write(&self.file, &lines.collect::<String>())
    }

    /// Says of earlier processes that this one, which has told what it knows, has gone on.
    async fn succeed(&mut self, client: &Client) {
        while let Some(name) = self.earlier.last() {
            match timeout(ANSWER_WITHIN, succeeded(client, name)).await {
                Ok(Ok(())) => drop(self.earlier.pop()),
                _ => return,
            }
        }
        if let Err(error) = self.write() {
            tracing::debug!(%error, "earlier processes are told again at the next start");
        }
    }
}

/// Writes this process's row until `ended`, and once more then.
pub(crate) async fn tell(client: Client, folder: PathBuf, suppressions: Suppressions, ended: CancellationToken) {
    let mut names = Names::take(&folder).unwrap_or_else(|error| {
        tracing::warn!(%error, "the name of this process is not kept: if it is killed, erasures tell for a week that it has not confirmed");
        Names { file: folder.join(FILE), own: Ulid::generate().to_string(), earlier: Vec::new() }
    });
    let process = names.own.clone();
    let mut told: Option<(Ack, Instant)> = None;
    // Whoever was not heard for so long was not waited for.
    let mut cut_off = 0;
    loop {
        let is_ended = ended.is_cancelled();
        let leftovers = suppressions.leftovers() + cut_off;
        let known = suppressions.applied();
        let ack = Ack { process: process.clone(), known, leftovers, is_running: u8::from(!is_ended) };
        let is_due = told.as_ref().is_none_or(|(before, at)| *before != ack || at.elapsed() >= WRITE_EVERY);
        if is_due {
            match timeout(ANSWER_WITHIN, write(&client, &ack)).await {
                Ok(Ok(())) => {
                    if told.is_some_and(|(_, at)| at.elapsed() >= WRITE_EVERY * 2) {
                        cut_off += 1;
                    }
                    told = Some((ack, Instant::now()));
                    if !names.earlier.is_empty() {
                        names.succeed(&client).await;
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "what is known of suppressions could not be told"),
                Err(_) => tracing::debug!("what is known of suppressions was not told in time"),
            }
        }
        if is_ended {
            return;
        }
        drop(timeout(LOOK_EVERY, ended.cancelled()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_finds_those_that_nobody_has_succeeded() {
        let folder = std::env::temp_dir().join(format!("tallyhouse-acks-{}", Ulid::generate()));
        fs::create_dir(&folder).unwrap();
        let first = Names::take(&folder).unwrap();
        let mut second = Names::take(&folder).unwrap();
        assert_eq!(second.earlier, std::slice::from_ref(&first.own));
        let third = Names::take(&folder).unwrap();
        assert_eq!(third.earlier, [first.own, second.own.clone()]);
        second.earlier.clear();
        second.write().unwrap();
        assert_eq!(Names::take(&folder).unwrap().earlier, [second.own]);
        for _ in 0..2 * NAMES {
            drop(Names::take(&folder).unwrap());
        }
        assert_eq!(Names::take(&folder).unwrap().earlier.len(), NAMES);
        fs::remove_dir_all(&folder).unwrap();
    }
}
