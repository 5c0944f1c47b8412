//! Landlock: files, ports, and whom the engine may signal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::{Allowed, CageError};

/// The newest version of which everything is asked for. What newer ones restrict was not tried with the engine.
pub(super) const TRIED: ABI = ABI::V6;

/// What the engine looks at to know the machine, and itself. `/proc/self` is opened by the process that it is about; of others it sees nothing.
const SYSTEM: [&str; 16] = [
    "/proc/self",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/pressure",
    "/proc/diskstats",
    "/proc/sys/vm",
    "/proc/sys/fs",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/etc/ld.so.cache",
    "/dev/urandom",
    "/dev/null",
];

fn read() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// No devices, sockets or pipes are made, and nothing is executed.
fn write() -> BitFlags<AccessFs> {
    read()
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::Refer
}

/// Everything that can be restricted, as far as this kernel can.
fn everything() -> Result<RulesetCreated, landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(TRIED))?
        .handle_access(AccessNet::from_all(TRIED))?
        .scope(Scope::from_all(TRIED))?
        .create()
}

pub(super) fn restrict(allowed: &Allowed) -> Result<(), CageError> {
    let mut rules = everything()?;
    for folder in &allowed.writable {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(folder)?, write()))?;
    }
    for path in &allowed.readable {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, readable(path)))?;
    }
    rules = rules.add_rule(PathBeneath::new(PathFd::new("/dev/null")?, AccessFs::ReadFile | AccessFs::WriteFile))?;
    let system = SYSTEM.iter().map(PathBuf::from).chain(libraries());
    for path in system {
        // Not every machine has all of them.
        let Ok(fd) = PathFd::new(&path) else { continue };
        rules = rules.add_rule(PathBeneath::new(&fd, readable(&path)))?;
        // A rule is about an inode, and the kernel may make a new one for a file of `/proc` that nobody holds open.
        std::mem::forget(fd);
    }
    for port in &allowed.ports {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    for port in &allowed.peers {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    rules.restrict_self()?;
    Ok(())
}

/// A file cannot be listed, and a rule that says so is refused.
fn readable(path: &Path) -> BitFlags<AccessFs> {
    if path.is_dir() { read() } else { AccessFs::ReadFile.into() }
}

/// Where this program's own libraries lie, the C library among them, of which the engine loads more parts.
fn libraries() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.find('/').and_then(|start| line.get(start..)));
    paths.filter(|path| path.contains(".so")).filter_map(|path| Some(Path::new(path).parent()?.to_owned())).collect()
}

/// What this kernel makes of everything that can be restricted. Restricts the calling thread.
pub(super) fn probe() -> Option<RestrictionStatus> {
    everything().and_then(RulesetCreated::restrict_self).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Rules bind the thread that applied them, and the threads of this test end with it.
    #[test]
    fn a_thread_does_what_it_may_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("tallyhouse-cage-{}", std::process::id()));
        let (tables, settings) = (folder.join("tables"), folder.join("settings"));
        fs::create_dir_all(&tables).unwrap();
        fs::create_dir_all(&settings).unwrap();
        fs::write(settings.join("config.xml"), "settings").unwrap();
        fs::write(folder.join("credentials"), "secret").unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let allowed = Allowed {
            writable: vec![tables.clone()],
            readable: vec![settings.clone()],
            ports: vec![port],
            peers: Vec::new(),
        };
        let (here, is_full) = (folder.clone(), probe_apart());
        let checked = std::thread::spawn(move || {
            restrict(&allowed).unwrap();
            fs::create_dir(tables.join("part")).unwrap();
            fs::write(tables.join("part/data"), "rows").unwrap();
            fs::rename(tables.join("part"), tables.join("moved")).unwrap();
            fs::remove_dir_all(tables.join("moved")).unwrap();
            assert_eq!(fs::read_to_string(settings.join("config.xml")).unwrap(), "settings");
            assert!(fs::read_to_string("/proc/self/status").is_ok() && fs::write("/dev/null", "x").is_ok());
            assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
            if !is_full {
                return eprintln!("SKIPPED in part: this kernel has no complete Landlock");
            }
            let denied = |kind: ErrorKind| kind == ErrorKind::PermissionDenied;
            std::os::unix::fs::symlink(here.join("credentials"), tables.join("link")).unwrap();
            for path in [here.join("credentials"), tables.join("link"), "/proc/1/status".into(), "/etc/passwd".into()] {
                assert!(denied(fs::read(&path).unwrap_err().kind()), "{}", path.display());
            }
            for path in [settings.join("config.xml"), here.join("new"), tables.join("link")] {
                assert!(denied(fs::write(&path, "changed").unwrap_err().kind()), "{}", path.display());
            }
            assert!(denied(TcpStream::connect(address).unwrap_err().kind()));
            assert!(denied(TcpListener::bind("127.0.0.1:0").unwrap_err().kind()));
        });
        checked.join().unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    /// Restricts a thread of its own.
    fn probe_apart() -> bool {
        let found = std::thread::spawn(probe).join().unwrap();
        found.is_some_and(|found| found.ruleset == landlock::RulesetStatus::FullyEnforced)
    }
}
