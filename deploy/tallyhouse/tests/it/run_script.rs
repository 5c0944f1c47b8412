//! `deploy/tallyhouse/run.sh`, which `make run` is: beside a running system it fails at once, and touches nothing of it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tallyhouse_service::http_client::Endpoint;
use tallyhouse_testkit::{Folder, eventually, free_ports};

/// Stopped whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const PORTS: [&str; 5] = ["INGEST_ADDR", "INGEST_ADMIN_ADDR", "QUERY_ADDR", "QUERY_ADMIN_ADDR", "CLICKHOUSE_HTTP_PORT"];

fn command(program: &Path, data: &Path, ports: [u16; 5]) -> Command {
    let mut command = Command::new(program);
    command.env("TALLYHOUSE_DATA", data).env("TALLYHOUSE_DEV", "1").env("DEMO", "0");
    for (name, port) in PORTS.into_iter().zip(ports) {
        let value = if name.ends_with("_ADDR") { format!("127.0.0.1:{port}") } else { port.to_string() };
        command.env(name, value);
    }
    command
}

#[tokio::test]
async fn beside_a_running_system_it_fails_and_touches_nothing() {
    let (folder, ports) = (Folder::create(), free_ports::<5>());
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    let program = Path::new(env!("CARGO_BIN_EXE_tallyhouse"));
    let _running = Running(command(program, &data, ports).arg("up").stderr(Stdio::null()).spawn().unwrap());
    let health = Endpoint::new(&format!("http://127.0.0.1:{}/", ports[3]), Duration::from_secs(2)).unwrap();
    eventually("it is ready", async || health.get("/health/ready").await.is_ok_and(|reply| reply.status.is_success()))
        .await;
    std::fs::write(data.join("tallyhouse.log"), "of the running one").unwrap();

    // The script starts what a release build made.
    std::fs::create_dir(folder.path().join("target")).unwrap();
    symlink(program.parent().unwrap(), folder.path().join("target/release")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("run.sh");
    let run = |data: &Path| -> Output {
        let mut command = command(&script, data, ports);
        // A script that says "up" goes on until it is stopped.
        command.env("CARGO_TARGET_DIR", folder.path().join("target"));
        Command::new("timeout")
            .arg("20")
            .arg(command.get_program())
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .output()
            .unwrap()
    };
    for (data, reason) in [(&data, "runs already in"), (&other, "INGEST_ADDR")] {
        let output = run(data);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{out}{err}");
        assert!(err.contains(reason) && !out.contains("is up"), "{out}{err}");
    }
    assert_eq!(std::fs::read_to_string(data.join("tallyhouse.log")).unwrap(), "of the running one");
    assert!(health.get("/health/ready").await.unwrap().status.is_success());
}
