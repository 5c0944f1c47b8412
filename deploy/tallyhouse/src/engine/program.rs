//! Finds the ClickHouse to run.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::verify;

/// The library's package, as `deploy/tallyhouse/package.json` pins it.
pub const PINNED_VERSION: &str = "26.7.3-stable.1";

/// Of `libchdb.so` in that package: `sha256sum` after npm has checked the archive.
pub(super) const PINNED_SHA256: &str = "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5";

/// Where `make run` puts it, below the repository.
const INSTALLED: &str = ".setup/engine/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so";

/// Where a package and `tallyhouse service install` put it: `/usr/bin/tallyhouse` has it in `/usr/lib/tallyhouse`.
const BESIDE: &str = "lib/tallyhouse/libchdb.so";

/// What the user prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// `clickhouse` from PATH if there is one, else the library.
    #[default]
    Auto,
    Library,
    /// `clickhouse` from PATH.
    Server,
}

impl FromStr for Choice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "library" => Ok(Self::Library),
            "server" => Ok(Self::Server),
            _ => Err(()),
        }
    }
}

/// A ClickHouse that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// `libchdb.so`: the engine as a library, which opens the same listeners.
    Library(PathBuf),
    /// The program `clickhouse`: everything that a server has.
    Server(PathBuf),
}

/// Nothing to run, or not the right thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// The library is not there.
    #[error("the ClickHouse library is not at {}; `make run` sets it up, TALLYHOUSE_ENGINE_LIBRARY says where else it is",
        .0.display())]
    NoLibrary(PathBuf),
    /// The library is of another version.
    #[error("{} is of version {found}, and {PINNED_VERSION} is needed; `make run` sets it up", .path.display())]
    LibraryVersion {
        path: PathBuf,
        /// The version of its package.
        found: String,
    },
    /// The library is another one.
    #[error("{} is not the library {PINNED_VERSION}: its SHA-256 is {found}, not {PINNED_SHA256}; remove it, and `make run` sets it up again",
        .path.display())]
    LibraryHash { path: PathBuf, found: String },
    #[error("{} cannot be read: {problem}", .path.display())]
    UnreadableLibrary { path: PathBuf, problem: String },
    /// No program on PATH.
    #[error("there is no `clickhouse` on PATH; install it, or use the library with TALLYHOUSE_ENGINE=library")]
    NoServer,
}

impl Program {
    /// Finds what is to be run. `library` is where the library was said to be; `path` is the variable PATH.
    pub fn find(choice: Choice, library: Option<PathBuf>, path: &str) -> Result<Self, ProgramError> {
        match choice {
            Choice::Library => Ok(Self::Library(library.unwrap_or_else(installed))),
            Choice::Server => on_path(path).map(Self::Server).ok_or(ProgramError::NoServer),
            Choice::Auto => match on_path(path) {
                Some(server) => Ok(Self::Server(server)),
                None => Self::find(Choice::Library, library, path),
            },
        }
    }

    /// Whether it is there and of the right version, as far as can be told without running it.
    pub fn check(&self) -> Result<(), ProgramError> {
        match self {
            // It is asked for its version when it runs.
            Self::Server(_) => Ok(()),
            Self::Library(path) if !path.is_file() => Err(ProgramError::NoLibrary(path.clone())),
            Self::Library(path) => match package_version(path) {
                Some(found) if found != PINNED_VERSION => {
                    Err(ProgramError::LibraryVersion { path: path.clone(), found })
                }
                _ => Ok(()),
            },
        }
    }
}

impl Program {
    /// Whether the library is the pinned one: reads all of it, unless the data folder knows it.
    pub async fn verify(&self, data: &Path) -> Result<(), ProgramError> {
        let Self::Library(path) = self else { return Ok(()) };
        let (library, remembered) = (path.clone(), verify::remembered(data));
        let verified = tokio::task::spawn_blocking(move || verify::library(&library, &remembered)).await;
        verified.unwrap_or_else(|error| {
            Err(ProgramError::UnreadableLibrary { path: path.clone(), problem: error.to_string() })
        })
    }
}

/// The version of the npm package that the library lies in; `None` when it came another way.
fn package_version(library: &Path) -> Option<String> {
    let text = std::fs::read_to_string(library.with_file_name("package.json")).ok()?;
    let package: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(package.get("version")?.as_str()?.to_owned())
}

/// Looks in the prefix that this program is installed in, then upwards from it, so that it is found from anywhere in a checkout. Not from the working directory: whoever it belongs to would choose
/// what is loaded.
fn installed() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let prefix = program.ancestors().nth(2).map(|prefix| prefix.join(BESIDE));
    let above = program.ancestors().map(|folder| folder.join(INSTALLED));
    let found = prefix.into_iter().chain(above).find(|path| path.is_file());
    found.unwrap_or_else(|| PathBuf::from(INSTALLED))
}

fn on_path(path: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join("clickhouse")).find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_npm_installs() {
        let package: serde_json::Value = serde_json::from_str(include_str!("../../package.json")).unwrap();
        assert_eq!(package["optionalDependencies"]["@chdb/lib-linux-x64-gnu"], PINNED_VERSION);
    }

    #[test]
    fn without_a_program_on_path_the_library_is_chosen_where_it_was_said_to_be() {
        let library = PathBuf::from("/somewhere/libchdb.so");
        assert_eq!(Program::find(Choice::Auto, Some(library.clone()), "/nowhere"), Ok(Program::Library(library)));
        assert_eq!(Program::find(Choice::Server, None, "/nowhere"), Err(ProgramError::NoServer));
    }
}
