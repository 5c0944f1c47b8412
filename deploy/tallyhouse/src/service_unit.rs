//! `tallyhouse up` as a service of systemd: which files an installation has, and the steps that put them there.
//!
//! ```text
//! install: program, library, tallyhousectl -> unit -> user -> file of variables (kept when it is there) -> systemd reads the unit
//! uninstall: stop and disable -> unit, program, library, tallyhousectl go; data, variables and user stay
//! ```
//!
//! The files of `deploy/systemd` are those of the Debian package, below `/usr`. Elsewhere the same texts get other paths, and the unit gets the time that the variables of
//! this machine give a drain.
//!
//! Failure cases:
//! * the service runs: a program that is executed cannot be written to, so each file is made beside its place and moved there;
//! * half of it failed: run it again, each step may be repeated;
//! * variables that cannot be used: nothing is installed, as nothing would start.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tallyhouse_service::config::shutdown_delay;
use tallyhouse_service::env::{ConfigError, Env};
use tallyhouse_service::lifecycle::MARGIN;

use crate::config::Config;
use crate::engine::Program;
use crate::up;

/// The unit as the package has it.
pub const UNIT: &str = include_str!("../../systemd/tallyhouse.service");
const CONTROL: &str = include_str!("../../systemd/tallyhousectl");
const VARIABLES: &str = include_str!("../../systemd/tallyhouse.env");

/// The user that runs the service.
pub const USER: &str = "tallyhouse";

const PACKAGED: &str = "/usr/bin/tallyhouse";
const FOLDER_OF_VARIABLES: &str = "/etc/tallyhouse";

/// Where an installation goes.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Below it are `bin` and `lib`, such as `/usr/local`.
    pub prefix: PathBuf,
    /// What every path is below: `/`, or the folder of an image.
    pub root: Option<PathBuf>,
}

impl Layout {
    /// A path of the installed system, where it is now.
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    fn program(&self) -> PathBuf {
        self.prefix.join("bin/tallyhouse")
    }

    fn control(&self) -> PathBuf {
        self.prefix.join("bin/tallyhousectl")
    }

    fn library(&self) -> PathBuf {
        self.prefix.join("lib/tallyhouse/libchdb.so")
    }

    fn unit() -> PathBuf {
        PathBuf::from("/etc/systemd/system/tallyhouse.service")
    }

    fn variables() -> PathBuf {
        Path::new(FOLDER_OF_VARIABLES).join("tallyhouse.env")
    }
}

/// Why it was not installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("only root may install a service: run it with sudo, or below a folder with --root")]
    NotRoot,
    #[error("`{command}` failed: {problem}")]
    Command { command: String, problem: String },
    #[error("--prefix: {} is not an absolute path without blanks", .0.display())]
    Prefix(PathBuf),
}

/// How long systemd has to wait for a stop: what the program allows itself, and a moment.
pub fn stop_timeout(env: &dyn Env) -> Result<Duration, ConfigError> {
    const MOMENT: Duration = Duration::from_secs(5);
    Ok(shutdown_delay(env)? + up::stop_budget(env)? + MARGIN + MOMENT)
}

/// The unit for a prefix, with the time that variables give a drain.
pub fn unit(prefix: &Path, env: &dyn Env) -> Result<String, ServiceError> {
    let text = prefix.display().to_string();
    // systemd would take a blank for the end of the path, and `%` for a specifier.
    if !prefix.is_absolute() || text.contains([' ', '\t', '\n', '%', '"', '\'', '\\']) {
        return Err(ServiceError::Prefix(prefix.to_owned()));
    }
    let seconds = stop_timeout(env)?.as_millis().div_ceil(1_000);
    let program = Layout { prefix: prefix.to_owned(), root: None }.program();
    let lines = UNIT.lines().map(|line| match line.split_once('=') {
        Some(("ExecStart", command)) => {
            format!("ExecStart={}", command.replacen(PACKAGED, &program.display().to_string(), 1))
        }
        Some(("TimeoutStopSec", _)) => format!("TimeoutStopSec={seconds}s"),
        Some(("Documentation", _)) => String::new(),
        _ => line.to_owned(),
    });
    Ok(lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n") + "\n")
}

/// Puts everything in place. Gives the lines that tell it.
pub fn install(layout: &Layout, env: &dyn Env) -> Result<Vec<String>, ServiceError> {
    require_root(layout)?;
    let unit = unit(&layout.prefix, env)?;
    let (config, mut told) = (Config::from_env(env)?, Vec::new());
    let own = std::env::current_exe().map_err(failed(Path::new("tallyhouse")))?;
    copy(&own, &layout.at(layout.program()), 0o755)?;
    told.push(format!("program    {}", layout.program().display()));
    let program = config.engine.as_ref().map(|engine| engine.program().map_err(|error| error.to_string()));
    match program {
        Some(Ok(Program::Library(library))) if library.is_file() => {
            copy(&library, &layout.at(layout.library()), 0o644)?;
            told.push(format!("library    {}", layout.library().display()));
        }
        Some(Ok(Program::Library(library))) => {
            told.push(format!("library    not copied: {} is not there", library.display()));
        }
        Some(Ok(Program::Server(server))) => told.push(format!("ClickHouse {} is used", server.display())),
        Some(Err(problem)) => told.push(format!("ClickHouse {problem}")),
        None => {}
    }
    let control = CONTROL.replace(PACKAGED, &layout.program().display().to_string());
    write(&layout.at(layout.control()), &control, 0o755)?;
    write(&layout.at(Layout::unit()), &unit, 0o644)?;
    told.push(format!("unit       {}", Layout::unit().display()));
    let variables = layout.at(Layout::variables());
    let is_new = !variables.exists();
    if is_new {
        write(&variables, VARIABLES, 0o640)?;
    }
    told.push(format!("variables  {}{}", Layout::variables().display(), if is_new { "" } else { " (kept as it was)" }));
    let folder = layout.at(FOLDER_OF_VARIABLES);
    fs::set_permissions(&folder, Permissions::from_mode(0o750)).map_err(failed(&folder))?;
    if layout.root.is_none() {
        if !succeeds("getent", &["passwd", USER]) {
            run(
                "useradd",
                &[
                    "--system",
                    "--user-group",
                    "--home-dir",
                    "/var/lib/tallyhouse",
                    "--no-create-home",
                    "--shell",
                    "/usr/sbin/nologin",
                    USER,
                ],
            )?;
        }
        let owner = format!("root:{USER}");
        run("chown", &[&owner, FOLDER_OF_VARIABLES, &Layout::variables().display().to_string()])?;
        if is_systemd_running() {
            run("systemctl", &["daemon-reload"])?;
        }
        told.push(
            "next       systemctl enable --now tallyhouse (or, where it runs already: systemctl restart tallyhouse)"
                .to_owned(),
        );
    }
    Ok(told)
}

/// Stops the service, and removes what [`install`] put in place but variables, data and user.
pub fn uninstall(layout: &Layout) -> Result<Vec<String>, ServiceError> {
    require_root(layout)?;
    if layout.root.is_none() && is_systemd_running() && layout.at(Layout::unit()).exists() {
        run("systemctl", &["disable", "--now", "tallyhouse.service"])?;
    }
    for path in [Layout::unit(), layout.control(), layout.program(), layout.library()] {
        remove(&layout.at(path))?;
    }
    if layout.root.is_none() && is_systemd_running() {
        run("systemctl", &["daemon-reload"])?;
    }
    Ok(vec![format!("removed; {FOLDER_OF_VARIABLES}, /var/lib/tallyhouse and the user {USER} stay")])
}

fn require_root(layout: &Layout) -> Result<(), ServiceError> {
    if layout.root.is_some() || rustix::process::geteuid().is_root() { Ok(()) } else { Err(ServiceError::NotRoot) }
}

fn is_systemd_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn run(program: &str, arguments: &[&str]) -> Result<(), ServiceError> {
    let command = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| ServiceError::Command { command: command(), problem: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ServiceError::Command { command: command(), problem })
}

fn remove(path: &Path) -> Result<(), ServiceError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed(path)(source)),
        _ => Ok(()),
    }
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), ServiceError> {
    let mut source = File::open(from).map_err(failed(from))?;
    place(to, mode, |file| io::copy(&mut source, file).map(drop))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), ServiceError> {
    place(path, mode, |file| io::Write::write_all(file, text.as_bytes()))
}

/// Makes a file beside its place and moves it there: the one before it may be executed.
fn place(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), ServiceError> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let draft = path.with_added_extension("new");
    remove(&draft)?;
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft).and_then(|mut file| {
        fill(&mut file)?;
        // The mode that it was opened with is subject to the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&draft, path)
    });
    if made.is_err() {
        // The error that tells why is the first.
        drop(fs::remove_file(&draft));
    }
    made.map_err(failed(path))
}

/// Others pass through what is made for an installation, whatever the umask.
fn make_folder(folder: &Path) -> Result<(), ServiceError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
    }
    fs::create_dir(folder)
        .and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o755)))
        .map_err(failed(folder))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ServiceError + use<> {
    let path = path.to_owned();
    move |source| ServiceError::File { path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn value<'a>(unit: &'a str, name: &str) -> &'a str {
        let values: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0]
    }

    #[test]
    fn the_unit_waits_for_the_longest_stop() {
        let least = stop_timeout(&env(&[])).unwrap();
        assert_eq!(value(UNIT, "TimeoutStopSec"), format!("{}s", least.as_secs()));
        let longer =
            env(&[("INGEST_DRAIN_MS", "60000"), ("QUERY_DRAIN_MS", "30000"), ("TALLYHOUSE_SHUTDOWN_DELAY_MS", "5500")]);
        let unit = unit(Path::new("/opt/th"), &longer).unwrap();
        assert_eq!(value(&unit, "TimeoutStopSec"), "89s");
        assert_eq!(value(&unit, "ExecStart"), "/opt/th/bin/tallyhouse up");
    }

    /// ClickHouse would end at once; the program restarts it, so its end is not the service's.
    #[test]
    fn a_stop_reaches_the_program_alone_and_a_wrong_variable_is_not_tried_again() {
        let expected = [
            ("KillMode", "mixed"),
            ("Restart", "always"),
            ("OOMPolicy", "continue"),
            ("RestartPreventExitStatus", "78"),
            ("LimitCORE", "0"),
            ("UMask", "0077"),
        ];
        for (name, expected) in expected {
            assert_eq!(value(UNIT, name), expected, "{name}");
        }
        assert_eq!(value(UNIT, "RestartPreventExitStatus"), tallyhouse_service::env::EXIT_CONFIG.to_string());
    }

    /// What the cage and ClickHouse need: see `engine::cage`.
    #[test]
    fn the_hardening_leaves_the_cage_its_tools() {
        let filter = value(UNIT, "SystemCallFilter");
        for call in
            ["@system-service", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"]
        {
            assert!(filter.split(' ').any(|word| word == call), "{call}");
        }
        for forbidden in ["ProcSubset", "MemoryDenyWriteExecute", "PrivateNetwork", "EnvironmentFile"] {
            assert!(!UNIT.lines().any(|line| line.starts_with(forbidden)), "{forbidden}");
        }
    }

    #[test]
    fn a_prefix_that_systemd_reads_otherwise_is_refused() {
        for prefix in ["relative", "/with blank", "/50%"] {
            assert!(matches!(unit(Path::new(prefix), &env(&[])), Err(ServiceError::Prefix(_))), "{prefix}");
        }
        assert!(unit(Path::new("/usr/local"), &env(&[("INGEST_DRAIN_MS", "much")])).is_err());
    }
}
