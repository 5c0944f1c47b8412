//! Accounts of people's tools: who comes in, from where, and what each sees.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use tallyhouse::accounts::statements::{OnServer, ServerKind};
use tallyhouse::engine::{Account, Engine, EngineOptions};
use tallyhouse_control::records::grant::Tool;
use tallyhouse_sql::migrations::Topology;
use tallyhouse_sql::{Connection, hex, runner};

use tallyhouse_testkit::{self as support, Folder, ask, eventually, execute, insert_events, options, ten_days_ago};

fn account(name: &str, project: &str, password: &str) -> Account {
    Account {
        name: name.parse().unwrap(),
        project: project.parse().unwrap(),
        password_sha256: hex(&Sha256::digest(password.as_bytes())).parse().unwrap(),
    }
}

fn as_user(engine: &Engine, user: &str, password: &str) -> Connection {
    Connection { url: engine.http_url().to_owned(), user: user.to_owned(), password: password.to_owned(), tls: None }
}

/// The one project that an account sees in each view; empty when it sees none.
async fn seen(connection: &Connection) -> Result<String, String> {
    let of =
        |view: &str| format!("(SELECT arrayStringConcat(groupUniqArray(project_id)) FROM tallyhouse_views.{view})");
    let views = ["events", "series_1m", "series_1h", "series_1d"].map(of).join(", ");
    ask(connection, &format!("SELECT arrayStringConcat(arrayDistinct([{views}]), '+')")).await
}

#[tokio::test]
async fn an_account_comes_in_at_once_sees_its_project_alone_and_goes_at_once() {
    let folder = Folder::create();
    let options = options(folder.path());
    let engine = Engine::start(options.clone()).await.unwrap();
    let writer = engine.writer();
    runner::up(&writer, &Topology::Single).await.unwrap();
    for project in ["a.b", "a-b", "demo"] {
        insert_events(&writer, project, ten_days_ago(), 10).await;
    }
    let (one, other) = (account("bi_a-b_1", "a.b", "first"), account("bi_a-b_2", "a-b", "second"));
    let (as_one, as_other) = (as_user(&engine, "bi_a-b_1", "first"), as_user(&engine, "bi_a-b_2", "second"));
    assert!(seen(&as_one).await.unwrap_err().contains("Code: 516"));

    engine.set_accounts(vec![one.clone(), other.clone()]).await.unwrap();
    assert_eq!((seen(&as_one).await.unwrap(), seen(&as_other).await.unwrap()), ("a.b".to_owned(), "a-b".to_owned()));
    assert_eq!(seen(&engine.grafana()).await.unwrap(), "demo");
    // Neither the tables behind the views nor anything of its own.
    for forbidden in [
        "SELECT count() FROM tallyhouse.events",
        "CREATE VIEW tallyhouse_views.mine AS SELECT 1",
        "CREATE DATABASE mine",
        "INSERT INTO tallyhouse_views.events (project_id) VALUES ('a-b')",
    ] {
        let refused = execute(&as_one, forbidden).await.expect_err(forbidden);
        assert!(refused.contains("Code: 497"), "{forbidden}: {refused}");
    }

    // A crash later it is the same; a changed password, and one that was deleted, hold at once.
    let pid = engine.pid();
    kill(pid.unwrap());
    eventually("ClickHouse is another process", async || engine.pid().is_some_and(|now| Some(now) != pid)).await;
    eventually("the account comes in again", async || seen(&as_one).await.is_ok()).await;
    engine.set_accounts(vec![account("bi_a-b_1", "a.b", "changed")]).await.unwrap();
    for gone in [&as_one, &as_other] {
        assert!(seen(gone).await.unwrap_err().contains("Code: 516"));
    }
    assert_eq!(seen(&as_user(&engine, "bi_a-b_1", "changed")).await.unwrap(), "a.b");
    // Only the crash counts as one.
    assert_eq!(engine.restarts(), 1);
    engine.stop(Duration::from_secs(10)).await;

    let engine = Engine::start(EngineOptions { accounts: vec![other], ..options }).await.unwrap();
    assert_eq!(seen(&as_other).await.unwrap(), "a-b");
    engine.stop(Duration::from_secs(10)).await;
}

/// The command, on the data folder of a test; what it printed.
fn users(data: &Path, http: u16, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
    command.arg("users").args(arguments).env("TALLYHOUSE_DEV", "1").env("TALLYHOUSE_DATA", data);
    let output = command.env("CLICKHOUSE_HTTP_PORT", http.to_string()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A store in a process of its own, which is killed whatever becomes of the test.
struct Store(Child);

impl Store {
    fn start(data: &Path, http: u16) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
        command.arg("store").env("TALLYHOUSE_DEV", "1").env("TALLYHOUSE_DATA", data);
        Self(command.env("CLICKHOUSE_HTTP_PORT", http.to_string()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn the_command_makes_changes_and_removes_accounts_of_a_store_that_runs() {
    let (folder, [http]) = (Folder::create(), support::free_ports());
    let data = folder.path().join("data");
    let store = Store::start(&data, http);
    let as_account = |made: &serde_json::Value| Connection {
        url: made["http"].as_str().unwrap().to_owned(),
        user: made["account"].as_str().unwrap().to_owned(),
        password: made["password"].as_str().unwrap().to_owned(),
        tls: None,
    };
    let comes_in = async |account: &Connection| ask(account, "SELECT currentDatabase()").await;
    let run = |arguments: &[&str]| users(&data, http, arguments);
    let json = |text: Result<String, String>| serde_json::from_str::<serde_json::Value>(&text.unwrap()).unwrap();
    let made = json(
        eventually_ok(|| run(&["create", "--project", "demo", "--for", "grafana", "--name", "wall", "--json"])).await,
    );
    let account = as_account(&made);
    assert_eq!(comes_in(&account).await.unwrap(), "tallyhouse_views");
    let listed = json(run(&["list", "--json"]));
    assert_eq!(
        (&listed[0]["account"], &listed[0]["for"], &listed[0]["note"]),
        (&made["account"], &"grafana".into(), &"wall".into())
    );
    // Nothing that is kept opens anything.
    assert!(!listed.to_string().contains(&account.password) && !listed.to_string().contains("sha256"));

    let rotated = as_account(&json(run(&["rotate", &account.user, "--json"])));
    assert!(comes_in(&account).await.is_err() && comes_in(&rotated).await.is_ok());
    store.stop();
    let store = Store::start(&data, http);
    eventually("the account comes in after a restart", async || comes_in(&rotated).await.is_ok()).await;

    let asked_at = Instant::now();
    run(&["delete", &account.user]).unwrap();
    assert!(comes_in(&rotated).await.unwrap_err().contains("Code: 516"));
    assert!(asked_at.elapsed() < Duration::from_secs(60), "{:?}", asked_at.elapsed());
    assert_eq!(json(run(&["list", "--json"])), serde_json::json!([]));
    for (arguments, expected) in [
        (&["delete", "grafana"][..], "there is no account `grafana`"),
        (&["create", "--project", "nobody", "--for", "bi"], "there is no project `nobody`"),
        (&["create", "--project", "demo", "--for", "dbt"], "dbt needs a ClickHouse server"),
        (&["create", "--project", "demo", "--for", "excel"], "none of grafana, bi, dbt"),
    ] {
        let refused = run(arguments).expect_err(expected);
        assert!(refused.contains(expected), "{refused}");
    }
    store.stop();
    // Without anything that runs, the engine is started for the command.
    let made = as_account(&json(run(&["create", "--project", "demo", "--for", "bi", "--json"])));
    let _store = Store::start(&data, http);
    eventually("the account comes in", async || comes_in(&made).await.is_ok()).await;
}

/// Until the store is there, the command would start one of its own, and finds the folder taken.
async fn eventually_ok(work: impl Fn() -> Result<String, String>) -> Result<String, String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match work() {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(100)).await,
            outcome => return outcome,
        }
    }
}

#[tokio::test]
async fn the_statements_for_given_servers_are_understood() {
    let writer = support::engine().await.writer();
    let (name, project) = ("dbt_a-b_x".parse().unwrap(), "a.b".parse().unwrap());
    let hash = "0f".repeat(32).parse().unwrap();
    for tool in Tool::ALL {
        let of = |server| OnServer { name: &name, project: &project, tool, server };
        let (one, of_cluster) = (of(ServerKind::Single), of(ServerKind::OfCluster));
        let statements = [one.create(&hash), of_cluster.create(&hash), one.rotate(&hash), one.delete()].concat();
        for statement in statements {
            let parsed = execute(&writer, &format!("EXPLAIN AST {statement}")).await;
            parsed.unwrap_or_else(|refused| panic!("{statement}: {refused}"));
        }
    }
    // Who may make no users is refused, and gets them printed.
    let refused = execute(&writer, "DROP USER IF EXISTS nobody").await.unwrap_err();
    assert!(refused.contains("Code: 497"), "{refused}");
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn what_an_account_asks_reads_its_own_projects_rows() {
    let folder = Folder::create();
    let engine = support::engine_in(&folder).await;
    insert_events(&engine.writer(), "mine", ten_days_ago(), 10).await;
    engine.set_accounts(vec![account("bi_mine", "mine", "p")]).await.unwrap();
    let client = as_user(&engine, "bi_mine", "p").client();
    let sql = "EXPLAIN indexes = 1 SELECT count() FROM tallyhouse_views.events WHERE event_type = 'purchase'";
    let bytes = client.query_raw(sql).fetch_bytes("TSV").unwrap().collect().await.unwrap();
    let plan = String::from_utf8_lossy(&bytes).into_owned();
    let primary = plan.split("PrimaryKey").nth(1).unwrap_or_default();
    assert!(primary.contains("project_id") && primary.contains("event_type"), "{plan}");
    engine.stop(Duration::from_secs(10)).await;
}

/// An address of this machine that is not loopback, which ClickHouse takes as a whole for this machine.
fn own_address() -> Option<IpAddr> {
    let probe = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9").map(|()| socket)).ok()?;
    Some(probe.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// The status of an answer over HTTP. A connection to an address of this machine comes from that address.
fn asked(to: SocketAddr, user: &str, password: &str) -> u16 {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(to)?;
        let request = format!(
            "GET /?query=SELECT+1 HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().unwrap_or_else(|error| panic!("{to}: {error}"));
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn tools_come_from_networks_that_are_named_and_the_products_own_users_from_loopback_alone() {
    let folder = Folder::create();
    let elsewhere = EngineOptions { listen: [192, 0, 2, 1].into(), ..options(folder.path()) };
    let error = Engine::spawn(elsewhere).await.unwrap_err().to_string();
    assert_eq!(error, "CLICKHOUSE_LISTEN: 192.0.2.1 is no address of this machine");
    let Some(address) = own_address() else {
        return eprintln!("SKIPPED in part: this machine has no address beside loopback");
    };
    let options =
        EngineOptions { listen: address, accounts: vec![account("bi_a", "a", "p")], ..options(folder.path()) };
    for (networks, allowed) in [(vec![], 403), (vec![format!("{address}/32").parse().unwrap()], 200)] {
        let options = EngineOptions { client_networks: networks, ..options.clone() };
        let port = options.http_port;
        let engine = Engine::start(options).await.unwrap();
        runner::up(&engine.writer(), &Topology::Single).await.unwrap();
        let of = move |(user, password): (&str, &str)| {
            [IpAddr::from([127, 0, 0, 1]), address].map(|ip| asked(SocketAddr::new(ip, port), user, password))
        };
        let users = [("bi_a", "p"), ("grafana", "dev"), ("writer", "dev"), ("reader", "dev"), ("analyst", "dev")];
        let found = tokio::task::spawn_blocking(move || users.map(of)).await.unwrap();
        assert_eq!(found, [[200, allowed], [200, allowed], [200, 403], [200, 403], [200, 403]]);
        engine.stop(Duration::from_secs(10)).await;
    }
}
