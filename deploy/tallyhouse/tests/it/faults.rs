//! What goes wrong with a process as a whole: another one on its data folder, a disk that is full or takes nothing, a port that is taken, variables that cannot be
//! used, a log file. Each is told in one line, and nothing is left behind that keeps the next start from working.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tallyhouse_service::http_client::Endpoint;
use tallyhouse_testkit::{Folder, SmallDisk, eventually, free_ports};

const PORTS: [&str; 5] = ["INGEST_ADDR", "INGEST_ADMIN_ADDR", "QUERY_ADDR", "QUERY_ADMIN_ADDR", "CLICKHOUSE_HTTP_PORT"];
/// `EX_CONFIG`: systemd does not start it again.
const CONFIG: i32 = 78;

fn up(data: &Path, ports: [u16; 5]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
    command.arg("up").env("TALLYHOUSE_DEV", "1").env("TALLYHOUSE_DATA", data).env_remove("LOG_FILE");
    for (name, port) in PORTS.into_iter().zip(ports) {
        command.env(name, if name.ends_with("_ADDR") { format!("127.0.0.1:{port}") } else { port.to_string() });
    }
    command
}

/// Killed whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    async fn ends(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("it ends", async || {
            let status = self.0.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        })
        .await;
        code
    }
}

async fn ready(ports: [u16; 5]) {
    for port in [ports[1], ports[3]] {
        let health = Endpoint::new(&format!("http://127.0.0.1:{port}/"), Duration::from_secs(2)).unwrap();
        eventually("it is ready", async || {
            health.get("/health/ready").await.is_ok_and(|reply| reply.status.is_success())
        })
        .await;
    }
}

/// How a process ends that cannot start, and its last words.
async fn refused(mut command: Command) -> (Option<i32>, String) {
    let mut running = Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let code = running.ends().await;
    let mut printed = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut printed).unwrap();
    let last: Value = serde_json::from_str(printed.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {printed}"));
    assert_eq!((last["level"].as_str(), last["service"].as_str()), (Some("ERROR"), Some("tallyhouse")), "{printed}");
    (code, last["fields"]["error"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_has_a_data_folder_a_port_and_a_log_file() {
    let (folder, ports, others) = (Folder::create(), free_ports::<5>(), free_ports::<5>());
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let mut command = up(&data, ports);
    command.env("LOG_FILE", &log).env("LOG_FILE_BYTES", "65536").env("LOG_FILE_COUNT", "2");
    let mut first = Running::start(command);
    ready(ports).await;

    let (code, error) = refused(up(&data, others)).await;
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(&format!("is in use by another Tallyhouse (process {})", first.0.id())), "{error}");
    let mut command = up(&folder.path().join("other"), others);
    command.env("LOG_FILE", &log);
    let (code, error) = refused(command).await;
    assert_eq!(code, Some(CONFIG));
    assert!(error.contains("LOG_FILE: ") && error.contains("is written by another process"), "{error}");
    for taken in 0..5 {
        let mut ports_of_it = others;
        ports_of_it[taken] = ports[taken];
        let (code, error) = refused(up(&folder.path().join("other"), ports_of_it)).await;
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(PORTS[taken]) && error.contains(&ports[taken].to_string()), "{error}");
    }

    // Commands share the variables, not the file: it can be moved away, and lines go on.
    let lines = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    assert!(lines() > 0);
    std::fs::rename(&log, folder.path().join("moved")).unwrap();
    first.signal(Signal::HUP);
    eventually("the log file is there again", async || lines() > 0).await;
    let output = Command::new(env!("CARGO_BIN_EXE_tallyhouse"))
        .args(["keys", "list", "--project", "demo"])
        .envs([("TALLYHOUSE_DATA", data.as_os_str()), ("LOG_FILE", log.as_os_str())])
        .env("TALLYHOUSE_DEV", "1")
        .env("INGEST_BATCH_ROW", "misspelt")
        .env("CLICKHOUSE_HTTP_PORT", ports[4].to_string())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("did you mean INGEST_BATCH_ROWS?"), "{output:?}");
    assert!(!std::fs::read_to_string(&log).unwrap().contains("INGEST_BATCH_ROW "));
    first.signal(Signal::TERM);
    assert_eq!(first.ends().await, Some(0));
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()) && text.contains("stopping"),
        "{text}"
    );
}

#[tokio::test]
async fn a_data_folder_that_takes_nothing_is_told_with_its_path() {
    let test = "a_data_folder_that_takes_nothing_is_told_with_its_path";
    let (folder, ports) = (Folder::create(), free_ports::<5>());
    let place = folder.path().join("disk");
    let Some(disk) = SmallDisk::mount_or_skip(&place, 16 << 10, test) else { return };
    let data = place.join("data");
    let (code, error) = refused(up(&data, ports)).await;
    assert!(code == Some(1) && error.contains("No space left on device"), "full: {error}");
    assert!(error.contains(&place.display().to_string()), "{error}");
    drop(std::fs::remove_dir_all(&data));
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(&place).status().unwrap();
    assert!(remount.success());
    let (code, error) = refused(up(&data, ports)).await;
    assert!(code == Some(1) && error.contains("Read-only file system"), "read-only: {error}");
    assert!(error.contains(&data.display().to_string()), "{error}");
    disk.unmount();
}

#[tokio::test]
async fn variables_that_cannot_be_used_are_told_with_their_line() {
    let (folder, ports) = (Folder::create(), free_ports::<5>());
    let (data, file) = (folder.path().join("data"), folder.path().join("tallyhouse.env"));
    let taken = TcpListener::bind(("127.0.0.1", ports[0])).unwrap();
    let with_file = |text: &[u8]| {
        std::fs::write(&file, text).unwrap();
        let mut command = up(&data, ports);
        command.env("TALLYHOUSE_ENV_FILE", &file);
        command
    };
    let name = file.display().to_string();
    let cases: [(&[u8], &str); 5] = [
        (b"QUERY_CACHE_WARM=off\nADMIN_TOKEN\nhunter2", "line 2: is not NAME=VALUE"),
        (b"ADMIN_TOKEN='hunter2", "line 1: ADMIN_TOKEN: the quote is not closed"),
        (b"\x7fELF\xff\xfe", "is not UTF-8"),
        (b"INGEST_DRAIN_MS=hunter2", "INGEST_DRAIN_MS: `hunter2` is not a whole number"),
        (b"INGEST_PACE_MS=701", "INGEST_PACE_MS: 701 is more than INGEST_PACE_MOST_MS"),
    ];
    for (text, expected) in cases {
        let (code, error) = refused(with_file(text)).await;
        assert!(code == Some(CONFIG) && error.contains(expected), "{code:?} {error}");
        let is_about_the_file = error.starts_with("TALLYHOUSE_ENV_FILE: ");
        assert!(!is_about_the_file || (error.contains(&name) && !error.contains("hunter2")), "{error}");
    }
    let mut command = up(&data, ports);
    command.env("TALLYHOUSE_ENV_FILE", folder.path().join("gone"));
    assert!(refused(command).await.1.contains("gone: No such file"));
    // What the environment says comes first; it gets as far as the port.
    let (code, error) = refused(with_file(b"INGEST_ADDR=127.0.0.1:1\nINGEST_BATCH_ROW=1\n")).await;
    assert!(
        code == Some(1) && error.contains(&format!("INGEST_ADDR: cannot listen on 127.0.0.1:{}", ports[0])),
        "{error}"
    );
    assert!(!data.join("clickhouse").exists(), "ClickHouse was started for nothing");
    drop(taken);
}
