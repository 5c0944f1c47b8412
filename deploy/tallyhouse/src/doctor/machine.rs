//! Checks this machine: the data folder, the engine, ports, limits.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getrlimit};
use tallyhouse_ingest::config::Config as IngestConfig;
use tallyhouse_ingest::log::local::Limits;
use tallyhouse_query_api::Config as QueryConfig;
use tallyhouse_service::health::Status;

use super::{Findings, Outcome};
use crate::config::{Config, EngineConfig};
use crate::data_folder;
use crate::engine::{PINNED_VERSION, Program, ProgramError, Strength, data_in_use};

/// For ClickHouse to merge in.
const ROOM_BYTES: u64 = 1 << 30;

/// ClickHouse and both services with few connections. Below it not even these.
const FILES: (u64, u64) = (1_024, 4_096);

pub(super) async fn examine(
    config: &Config,
    ingest: Option<&IngestConfig>,
    query: Option<&QueryConfig>,
    findings: &mut Findings,
) {
    findings.add("data", folder(&config.data));
    if let Err(error) = data_folder::examine(&config.data) {
        findings.add("data", Outcome::Failed(error.to_string()));
    }
    findings.add("room", room(&config.data, ingest.map(|ingest| ingest.log)));
    if let Some(engine) = &config.engine {
        findings.add("lock", lock(&config.data));
        findings.add("engine", program(engine, &config.data).await);
        findings.add("cage", cage(engine));
        findings.add("port", free("CLICKHOUSE_HTTP_PORT", engine.http_port));
        if let Some(port) = engine.tcp_port {
            findings.add("port", free("CLICKHOUSE_TCP_PORT", port));
        }
    }
    if let Some(ingest) = ingest {
        findings.add("port", listenable("INGEST_ADDR", ingest.address));
        findings.add("port", listenable("INGEST_ADMIN_ADDR", ingest.admin_address));
    }
    if let Some(query) = query {
        findings.add("port", listenable("QUERY_ADDR", query.address));
        findings.add("port", listenable("QUERY_ADMIN_ADDR", query.admin_address));
    }
    let streams = query.map_or(0, |query| query.streams.listeners);
    findings.add("open files", open_files(getrlimit(Resource::Nofile).current, streams as u64));
}

/// The folder, or the nearest above it that exists.
fn existing(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// Asks the system for the right; a file of its own would be left behind by a kill.
fn folder(data: &Path) -> Outcome {
    let (path, nearest) = (data.display(), existing(data));
    let choose = "choose another with TALLYHOUSE_DATA";
    if !nearest.is_dir() {
        return Outcome::Failed(format!("{} is not a folder; {choose}", nearest.display()));
    }
    if let Err(error) = access(&nearest, Access::WRITE_OK | Access::EXEC_OK) {
        return Outcome::Failed(format!("{} is not writable: {error}; {choose}", nearest.display()));
    }
    if data.is_dir() {
        return Outcome::Ok(format!("{path} is writable (TALLYHOUSE_DATA)"));
    }
    // Of `/proc` and its like only an attempt would tell.
    match nearest.starts_with("/proc") || nearest.starts_with("/sys") {
        true => Outcome::Failed(format!("{path} cannot be made in {}; {choose}", nearest.display())),
        false => Outcome::Ok(format!("{path} will be created (TALLYHOUSE_DATA)")),
    }
}

fn room(data: &Path, log: Option<Limits>) -> Outcome {
    match statvfs(existing(data)) {
        Ok(found) => room_of(found.f_bavail.saturating_mul(found.f_frsize), log),
        Err(error) => Outcome::Warning(format!("the free room below {} cannot be seen: {error}", data.display())),
    }
}

fn room_of(free: u64, log: Option<Limits>) -> Outcome {
    let mib = |bytes: u64| bytes >> 20;
    let (reserved, waiting) = log.map_or((0, 0), |log| (log.reserved_bytes(), log.bytes));
    let wanted = reserved + ROOM_BYTES + waiting;
    if free <= reserved {
        let least = mib(reserved);
        return Outcome::Failed(format!(
            "{} MiB are free, and below {least} MiB no event is taken; free some",
            mib(free)
        ));
    }
    if free < wanted {
        return Outcome::Warning(format!(
            "{} MiB are free, less than the {} MiB that the local log (SPOOL_BYTES) and ClickHouse may want",
            mib(free),
            mib(wanted)
        ));
    }
    Outcome::Ok(format!("{} MiB are free", mib(free)))
}

fn lock(data: &Path) -> Outcome {
    match data_in_use(data) {
        Ok(None) => Outcome::Ok("no ClickHouse works on the data".to_owned()),
        Ok(Some(pid)) => {
            let who = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
            Outcome::Failed(format!("{who} works on {}; stop it, or choose another TALLYHOUSE_DATA", data.display()))
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn program(engine: &EngineConfig, data: &Path) -> Outcome {
    let found = async {
        let program = engine.program()?;
        program.check()?;
        program.verify(data).await?;
        Ok::<_, ProgramError>(program)
    };
    let found = found.await.map_err(|error| error.to_string()).map(|program| match program {
        Program::Library(path) => format!("library {PINNED_VERSION}, {}", path.display()),
        Program::Server(path) => format!("server {}", path.display()),
    });
    found.into()
}

fn cage(engine: &EngineConfig) -> Outcome {
    // Which it is, is found above.
    let is_library = !matches!(engine.program(), Ok(Program::Server(_)));
    let strength = Strength::of(engine.cage, is_library);
    match strength.status() {
        Status::Up => Outcome::Ok(format!("{strength} (TALLYHOUSE_CAGE)")),
        _ => Outcome::Warning(strength.to_string()),
    }
}

fn free(variable: &str, port: u16) -> Outcome {
    listenable(variable, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn listenable(variable: &str, address: SocketAddr) -> Outcome {
    match TcpListener::bind(address) {
        Ok(_) => Outcome::Ok(format!("{address} is free ({variable})")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Outcome::Failed(format!(
            "{address} is in use; stop who listens there, or choose another with {variable}; does Tallyhouse run there? `tallyhouse doctor --running`"
        )),
        Err(error) => {
            Outcome::Failed(format!("{address} cannot be listened on: {error}; choose another with {variable}"))
        }
    }
}

fn open_files(limit: Option<u64>, streams: u64) -> Outcome {
    let Some(limit) = limit else { return Outcome::Ok("without a limit".to_owned()) };
    let (least, enough) = FILES;
    if limit < least {
        return Outcome::Failed(format!(
            "{limit} at a time, and {least} are needed; raise it with `ulimit -n {enough}`"
        ));
    }
    let wanted = enough.max(least + streams);
    if limit < wanted {
        return Outcome::Warning(format!(
            "{limit} at a time; with {streams} open streams (QUERY_STREAM_LISTENERS) {wanted} may be wanted: `ulimit -n {wanted}`"
        ));
    }
    Outcome::Ok(format!("{limit} at a time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_fails_and_a_small_one_warns() {
        let room = |free, log| room_of(free, Some(Limits { bytes: log, age: std::time::Duration::from_secs(3_600) }));
        assert!(matches!(room(200 << 20, 1 << 30), Outcome::Failed(_)));
        assert!(matches!(room(2 << 30, 1 << 30), Outcome::Warning(text) if text.contains("SPOOL_BYTES")));
        assert_eq!(room(3 << 30, 1 << 30), Outcome::Ok("3072 MiB are free".to_owned()));
        assert!(matches!(room(200 << 20, 64 << 20), Outcome::Warning(_)), "a small log reserves less");
    }

    #[test]
    fn few_open_files_fail_or_warn() {
        assert!(matches!(open_files(Some(256), 0), Outcome::Failed(text) if text.contains("ulimit -n 4096")));
        assert!(matches!(open_files(Some(4_096), 5_000), Outcome::Warning(text) if text.contains("6024")));
        assert!(matches!(open_files(Some(65_536), 5_000), Outcome::Ok(_)));
        assert!(matches!(open_files(None, 5_000), Outcome::Ok(_)));
    }

    #[test]
    fn a_data_folder_is_looked_at_and_not_made() {
        let data = std::env::temp_dir().join(format!("tallyhouse-doctor-{}", std::process::id()));
        assert!(matches!(folder(&data), Outcome::Ok(text) if text.contains("will be created")));
        assert!(!data.exists());
        std::fs::write(&data, "").unwrap();
        assert!(matches!(folder(&data.join("below")), Outcome::Failed(text) if text.contains("not a folder")));
        std::fs::remove_file(&data).unwrap();
    }

    #[test]
    fn data_that_is_worked_on_is_reported() {
        let data = std::env::temp_dir().join(format!("tallyhouse-doctor-lock-{}", std::process::id()));
        std::fs::create_dir_all(data.join("clickhouse")).unwrap();
        let path = data.join("clickhouse").join("status");
        std::fs::write(&path, "PID: 4711\n").unwrap();
        assert!(matches!(lock(&data), Outcome::Ok(_)));
        let held = std::fs::File::open(&path).unwrap();
        held.lock().unwrap();
        assert!(matches!(lock(&data), Outcome::Failed(text) if text.contains("process 4711")));
        std::fs::remove_dir_all(&data).unwrap();
    }
}
