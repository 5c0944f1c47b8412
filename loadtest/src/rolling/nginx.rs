//! nginx in front of a fleet, with the configuration that is shipped.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::RollingError;
use crate::chaos::fleet::Fleet;
use crate::chaos::plan::Target;
use crate::daemon::{Daemon, Launch, log_tail};
use crate::ports::free_address;

const TEMPLATE: &str = include_str!("../../../deploy/nginx/tallyhouse.conf.template");
const READY_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A running nginx; it is killed when the value goes.
pub(super) struct Balancer {
    /// `http://host:port` of both gateways.
    pub(super) ingest: String,
    /// The same of both query APIs.
    pub(super) query: String,
    _daemon: Daemon,
}

/// What stands around the file where it is not a system's own nginx. Paths are those of one folder, so that any user may start it. One process: a
/// worker would outlive the master that is killed.
fn around(folder: &Path) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n"))
        .collect();
    format!(
        "pid {folder}/nginx.pid;\nerror_log {folder}/error.log warn;\nmaster_process off;\ndaemon off;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n    access_log off;\n{temporary}    include {folder}/tallyhouse.conf;\n}}\n"
    )
}

/// As envsubst does it.
fn rendered(values: &[(&str, &str)]) -> String {
    values.iter().fold(TEMPLATE.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

pub(super) async fn start(fleet: &Fleet) -> Result<Balancer, RollingError> {
    let (ingest, query) = (free_address()?, free_address()?);
    let address = |target| fleet.address(target).unwrap_or_default();
    let rendered = rendered(&[
        ("GATEWAY_1", address(Target::Gateway(0))),
        ("GATEWAY_2", address(Target::Gateway(1))),
        ("QUERY_API_1", address(Target::QueryApi(0))),
        ("QUERY_API_2", address(Target::QueryApi(1))),
        ("INGEST_LISTEN", &ingest),
        ("QUERY_LISTEN", &query),
    ]);
    let folder = fleet.folder().join("nginx");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("tallyhouse.conf"), rendered)?;
    let (main, log) = (folder.join("nginx.conf"), folder.join("error.log"));
    fs::write(&main, around(&folder))?;
    let arguments = ["-c".into(), main.into_os_string(), "-e".into(), log.clone().into_os_string()];
    check(&arguments)?;
    let launch = Launch {
        name: "nginx".to_owned(),
        program: program(),
        arguments: arguments.into(),
        env: Vec::new(),
        without: Vec::new(),
        log: folder.join("nginx.log"),
    };
    let mut daemon = Daemon::start(&launch)?;
    let deadline = Instant::now() + READY_WITHIN;
    while tokio::net::TcpStream::connect(&query).await.is_err() {
        if daemon.has_ended() || Instant::now() > deadline {
            return Err(RollingError::Nginx(format!("it did not start: {}", log_tail(&log))));
        }
        sleep(POLL).await;
    }
    Ok(Balancer { ingest: format!("http://{ingest}"), query: format!("http://{query}"), _daemon: daemon })
}

/// Debian puts it where not everybody's `PATH` leads.
fn program() -> PathBuf {
    let of_debian = PathBuf::from("/usr/sbin/nginx");
    if of_debian.exists() { of_debian } else { "nginx".into() }
}

/// What nginx itself says of the files.
fn check(arguments: &[std::ffi::OsString]) -> Result<(), RollingError> {
    let tried = Command::new(program()).arg("-t").args(arguments).output();
    let tried = tried.map_err(|error| match error.kind() {
        ErrorKind::NotFound => RollingError::NoNginx,
        _ => RollingError::Io(error),
    })?;
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    if tried.status.success() { Ok(()) } else { Err(RollingError::Nginx(said)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_of_the_file_is_put_in() {
        let names = ["GATEWAY_1", "GATEWAY_2", "QUERY_API_1", "QUERY_API_2", "INGEST_LISTEN", "QUERY_LISTEN"];
        let rendered = rendered(&names.map(|name| (name, "127.0.0.1:1")));
        assert!(!rendered.contains("${"), "{rendered}");
        assert!(names.iter().all(|name| TEMPLATE.contains(&format!("${{{name}}}"))));
    }
}
