//! `tallyhouse engine`: the child process of the engine. Internal; `tallyhouse up` starts it.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::thread::set_no_new_privs;

use super::cage::{self, Allowed, CageError};
use super::library::{self, LibraryError};

/// Opens the listener of ClickHouse's own protocol, when somebody asked for it.
const SERVE_NATIVE: &str = "SYSTEM START LISTEN TCP; ";

/// Opens the listener of HTTP, then does nothing for thirty thousand years.
///
/// The engine ends with its query, so the query must not end. `max_execution_time` would end it, and
/// `function_sleep_max_microseconds_per_block` would forbid it. SIGTERM ends it at once. `interactive_delay`: nobody watches its
/// progress, which it would otherwise look at ten times a second.
const SERVE: &str = "SYSTEM START LISTEN HTTP; \
    SELECT sleepEachRow(3) FROM numbers(1000000000000) \
    SETTINGS max_block_size = 1, max_execution_time = 0, interactive_delay = 3000000, function_sleep_max_microseconds_per_block = 0 FORMAT Null";

/// The arguments of the child.
#[derive(Debug, Clone, clap::Args)]
pub struct ChildArgs {
    /// libchdb.so
    #[arg(long, conflicts_with = "server", required_unless_present = "server")]
    library: Option<PathBuf>,
    /// The program `clickhouse`
    #[arg(long)]
    server: Option<PathBuf>,
    /// config.xml
    #[arg(long)]
    config: PathBuf,
    /// Speak ClickHouse's own protocol beside HTTP
    #[arg(long)]
    native: bool,
    /// A folder to write to
    #[arg(long)]
    writable: Vec<PathBuf>,
    /// A port to listen on
    #[arg(long)]
    port: Vec<u16>,
    /// A port to connect to
    #[arg(long)]
    peer: Vec<u16>,
    /// Give nothing away
    #[arg(long)]
    uncaged: bool,
    /// The process whose end is the child's end
    #[arg(long)]
    parent: i32,
}

/// Why the child ended.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Its parent is gone.
    #[error("the process that started the engine is gone")]
    Orphaned,
    /// The kernel refused to bind its life to its parent's.
    #[error("the engine cannot be bound to its parent: {0}")]
    Bind(rustix::io::Errno),
    /// The kernel refused what it offers.
    #[error("the engine cannot be caged: {0}; TALLYHOUSE_CAGE=off starts it without")]
    Cage(#[from] CageError),
    #[error("{0}")]
    Library(#[from] LibraryError),
    /// The program did not run.
    #[error("{}: {source}", .program.display())]
    Exec { program: PathBuf, source: std::io::Error },
    /// It ended although nobody asked.
    #[error("the engine ended")]
    Ended,
}

impl ChildArgs {
    fn allowed(&self, library: &Path) -> Allowed {
        let configuration = self.config.parent().unwrap_or(Path::new("/nowhere"));
        Allowed {
            writable: self.writable.clone(),
            readable: vec![configuration.to_owned(), library.to_owned()],
            ports: self.port.clone(),
            peers: self.peer.clone(),
        }
    }
}

/// Becomes ClickHouse. Returns only when that failed or ended.
pub fn run(args: &ChildArgs) -> Result<Infallible, ChildError> {
    // Set by the child, not between fork and exec: that would need `unsafe`. A parent that died before this line has
    // left us to another process, hence the comparison.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(ChildError::Bind)?;
    if getppid() != Pid::from_raw(args.parent) {
        return Err(ChildError::Orphaned);
    }
    // A package may have given the file capabilities, and gaining them would clear the death signal.
    set_no_new_privs(true).map_err(ChildError::Bind)?;
    let config = format!("--config-file={}", args.config.display());
    match (&args.server, &args.library) {
        (Some(program), _) => {
            let source = Command::new(program).arg("server").arg(config).exec();
            Err(ChildError::Exec { program: program.clone(), source })
        }
        (None, Some(library)) => {
            if !args.uncaged {
                cage::enter(&args.allowed(library))?;
            }
            let statements = format!("{}{SERVE}", if args.native { SERVE_NATIVE } else { "" });
            // The library logs at `trace` whatever config.xml says. `--interactive`, on a terminal: an error of a connection does not end it
            // (see `pty`).
            let arguments = ["clickhouse", &config, "--log-level=warning", "--interactive", "--query", &statements]
                .map(str::to_owned);
            library::run(library, &arguments)?;
            Err(ChildError::Ended)
        }
        (None, None) => Err(ChildError::Ended),
    }
}
