//! The cage: what the kernel lets the embedded engine do, whatever its clients make it try.
//!
//! ```text
//! tallyhouse engine: death signal -> no_new_privs -> Landlock (files, ports, scopes) -> seccomp (system calls) -> dlopen
//! ```
//!
//! Functions such as `file('/etc/passwd')` need no grant, and a fault in a format or a codec is worse. So the child gives away its rights before the
//! library is loaded, while it has one thread: threads that come later inherit what it has left.
//!
//! | | allowed |
//! |---|---|
//! | read and write | the folders of tables, old raw events, and ClickHouse's log |
//! | read | its configuration, the library, the folder of the C library, what `/proc` and `/sys` say of the machine and of itself |
//! | execute | nothing |
//! | network | TCP, listening on its ports; no connection to anybody but other shards, of which there are none outside tests; no other socket |
//!
//! Failure cases:
//! * an old kernel, or one without Landlock or seccomp: what there is, is used, with one warning; `/health` and `doctor` say it;
//! * the kernel has it and refuses: the engine does not start, and says that `TALLYHOUSE_CAGE=off` starts it without;
//! * `clickhouse` from `PATH`: it is a program of the machine's administrator, with needs that nobody here knows. It gets an empty environment and
//!   `no_new_privs`, no more; `/health` and `doctor` say so.
//!
//! Not kept from the engine: its own configuration with the hashes of passwords, and every tenant's column files. Against these stand grants, row
//! policies and the SQL allow-list. Modes (`chmod`) of files that its user owns are not covered by Landlock, and detaching a part changes some: only what
//! executes its own code in the engine could do so, and not read the file itself. Nor is the library protected from somebody who may replace it while it is loaded.

mod files;
mod system_calls;

use std::fmt;
use std::path::PathBuf;

use landlock::{LandlockStatus, RestrictionStatus};
use tallyhouse_service::health::Status;

/// Whether the engine is caged: `TALLYHOUSE_CAGE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cage {
    #[default]
    On,
    /// To find out whether it is in the way.
    Off,
}

impl std::str::FromStr for Cage {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

/// What is allowed.
#[derive(Debug, Clone)]
pub(super) struct Allowed {
    /// Folders below which everything but devices may be made.
    pub(super) writable: Vec<PathBuf>,
    /// Files, and folders with what is below them.
    pub(super) readable: Vec<PathBuf>,
    /// TCP ports to listen on.
    pub(super) ports: Vec<u16>,
    /// TCP ports to connect to: of other shards.
    pub(super) peers: Vec<u16>,
}

/// The kernel refused what it offers.
#[derive(Debug, thiserror::Error)]
pub enum CageError {
    #[error("{0}")]
    Landlock(#[from] landlock::RulesetError),
    #[error("{0}")]
    Open(#[from] landlock::PathFdError),
    #[error("{0}")]
    Seccomp(#[from] seccompiler::Error),
    #[error("{0}")]
    Filter(#[from] seccompiler::BackendError),
}

/// Gives away every right that is not `allowed`, for good. The process must have one thread.
pub(super) fn enter(allowed: &Allowed) -> Result<(), CageError> {
    files::restrict(allowed)?;
    match system_calls::restrict() {
        Err(error) if system_calls::is_unknown_to_the_kernel(&error) => Ok(()),
        outcome => outcome,
    }
}

/// How strong the cage of this machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// Files, ports and scopes by Landlock of this version, and system calls by seccomp.
    Full { landlock: i32 },
    /// Of an older kernel: `landlock` is 0 without it.
    Partial { landlock: i32, has_seccomp: bool },
    /// `clickhouse` from `PATH`.
    Server,
    /// `TALLYHOUSE_CAGE=off`
    Off,
}

impl Strength {
    /// What an embedded engine gets here. Asks the kernel by giving away the rights of a thread that then ends.
    pub fn of(cage: Cage, is_library: bool) -> Self {
        match (cage, is_library) {
            (Cage::Off, _) => Self::Off,
            (Cage::On, false) => Self::Server,
            (Cage::On, true) => {
                let landlock = std::thread::spawn(files::probe).join().ok().flatten();
                judge(landlock.as_ref(), system_calls::are_filtered_here())
            }
        }
    }

    pub fn status(self) -> Status {
        match self {
            Self::Full { .. } => Status::Up,
            Self::Partial { .. } | Self::Server | Self::Off => Status::Degraded,
        }
    }
}

fn judge(restriction: Option<&RestrictionStatus>, has_seccomp: bool) -> Strength {
    let landlock = match restriction.map(|restriction| restriction.landlock) {
        Some(LandlockStatus::Available { effective_abi, kernel_abi }) => kernel_abi.unwrap_or(effective_abi as i32),
        _ => 0,
    };
    if landlock >= files::TRIED as i32 && has_seccomp {
        Strength::Full { landlock }
    } else {
        Strength::Partial { landlock, has_seccomp }
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { landlock } => write!(f, "the engine is caged by Landlock {landlock} and seccomp"),
            Self::Partial { landlock, has_seccomp } => {
                let version = |abi: &i32| match abi {
                    0 => "no Landlock".to_owned(),
                    abi => format!("Landlock {abi} (of {} that are used)", files::TRIED as i32),
                };
                let seccomp = if *has_seccomp { "seccomp" } else { "no seccomp" };
                write!(f, "the engine is caged in part: this kernel has {} and {seccomp}", version(landlock))
            }
            Self::Server => f.write_str(
                "`clickhouse` from PATH is not caged: it has an empty environment and no_new_privs, no more",
            ),
            Self::Off => {
                f.write_str("the engine is not caged (TALLYHOUSE_CAGE=off): SQL can read every file that this user can")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_a_partial_cage() {
        assert_eq!(judge(None, true), Strength::Partial { landlock: 0, has_seccomp: true });
        assert!(judge(None, true).to_string().contains("no Landlock and seccomp"));
        let newest = Strength::Full { landlock: 10 };
        assert_eq!((newest.status(), Strength::Server.status()), (Status::Up, Status::Degraded));
    }

    #[test]
    fn asking_how_strong_it_is_leaves_this_process_free() {
        let strength = Strength::of(Cage::On, true);
        assert!(std::fs::read("/etc/passwd").is_ok(), "{strength}");
        std::thread::spawn(|| std::fs::read("/etc/passwd").unwrap()).join().unwrap();
        assert_eq!(Strength::of(Cage::Off, true), Strength::Off);
    }
}
