//! The cage of the embedded engine: it does all its work in there, and finds nothing outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tallyhouse::engine::{Cage, Engine, EngineOptions, Strength};
use tallyhouse_sql::Connection;
use tallyhouse_testkit::{Folder, ask, engine_in, execute, options};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Statements at a time.
const AT_ONCE: usize = 16;

/// None of these statements needs longer; one that waits for something that nobody sends (standard input) is given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Whether the kernel of this machine has all that the cage is made of. If not, only what the engine does is tested.
fn has_cage(engine: &Engine) -> bool {
    let is_full = matches!(engine.cage(), Strength::Full { .. });
    if !is_full {
        eprintln!("SKIPPED in part: {}", engine.cage());
    }
    is_full
}

#[tokio::test]
async fn in_its_cage_it_merges_spills_moves_renames_and_drops() {
    let folder = Folder::create();
    let engine = engine_in(&folder).await;
    let writer = engine.writer();
    let run = async |sql: &str| execute(&writer, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    run("CREATE TABLE tallyhouse.t (n UInt64, d Date, s String) ENGINE = MergeTree PARTITION BY d ORDER BY n \
         SETTINGS storage_policy = 'tiered', non_replicated_deduplication_window = 100")
    .await;
    for day in 1..=2 {
        for _ in 0..3 {
            run(&format!(
                "INSERT INTO tallyhouse.t SELECT number, toDate('2026-01-0{day}'), toString(sipHash64(number, {day}, generateUUIDv4())) \
                 FROM numbers(100000)"
            ))
            .await;
        }
    }
    run("OPTIMIZE TABLE tallyhouse.t FINAL").await;
    run("ALTER TABLE tallyhouse.t MOVE PARTITION '2026-01-01' TO VOLUME 'cold'").await;
    assert_eq!(
        ask(&writer, "SELECT uniqExact(disk_name) FROM system.parts WHERE table = 't' AND active").await.unwrap(),
        "2"
    );
    let spilled = "SELECT count() FROM (SELECT s, count() FROM tallyhouse.t GROUP BY s ORDER BY s LIMIT 500000 \
                   SETTINGS max_bytes_before_external_group_by = 1000000, max_bytes_ratio_before_external_group_by = 0, \
                   max_bytes_before_external_sort = 1000000, max_bytes_ratio_before_external_sort = 0, max_block_size = 8192)";
    assert_eq!(ask(&writer, spilled).await.unwrap(), "500000");
    run("ALTER TABLE tallyhouse.t DETACH PARTITION '2026-01-02'").await;
    run("ALTER TABLE tallyhouse.t ATTACH PARTITION '2026-01-02'").await;
    run("ALTER TABLE tallyhouse.t UPDATE s = 'x' WHERE n < 10 SETTINGS mutations_sync = 1").await;
    run("ALTER TABLE tallyhouse.t MOVE PARTITION '2026-01-01' TO VOLUME 'hot'").await;
    run("RENAME TABLE tallyhouse.t TO tallyhouse.u").await;
    assert_eq!(ask(&writer, "SELECT countIf(s = 'x') FROM tallyhouse.u").await.unwrap(), "60");
    run("DROP TABLE tallyhouse.u SYNC").await;

    if has_cage(&engine) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid().unwrap())).unwrap();
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    }
    let environment = std::fs::read(format!("/proc/{}/environ", engine.pid().unwrap())).unwrap();
    assert_eq!(String::from_utf8_lossy(&environment), "");
    engine.stop(Duration::from_secs(10)).await;
}

/// What lies about, each with something that is nowhere else.
struct Surroundings {
    data: PathBuf,
    other: PathBuf,
    secrets: Vec<String>,
}

fn surroundings(folder: &Folder) -> Surroundings {
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    let secrets =
        ["of-the-credentials", "of-another-folder"].map(|what| format!("s3cr3t-{}-{what}", std::process::id()));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(data.join("credentials"), &secrets[0]).unwrap();
    std::fs::write(other.join("secret"), &secrets[1]).unwrap();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let environment = std::fs::read_to_string("/proc/self/environ").unwrap();
    let first = passwd.lines().next().unwrap().to_owned();
    // The longest is surely in no answer by chance.
    let longest = environment.split('\0').max_by_key(|entry| entry.len()).unwrap().to_owned();
    Surroundings { data, other, secrets: [secrets.to_vec(), vec![first, longest]].concat() }
}

impl Surroundings {
    fn paths(&self) -> Vec<String> {
        let own = std::process::id();
        let text = |path: PathBuf| path.display().to_string();
        vec![
            "/etc/passwd".to_owned(),
            format!("/proc/{own}/environ"),
            "/proc/self/root/etc/passwd".to_owned(),
            text(self.data.join("credentials")),
            // Relative to the folder that `file` looks in.
            "../../credentials".to_owned(),
            text(self.other.join("secret")),
            format!("file://{}", self.data.join("credentials").display()),
        ]
    }

    fn secret_in(&self, text: &str) -> Option<&String> {
        self.secrets.iter().find(|secret| text.contains(secret.as_str()))
    }
}

/// The text of an answer, whatever it is: what an error quotes is read as well.
async fn seen(connection: &Connection, sql: String) -> String {
    let client = connection.server();
    let bytes = async {
        let mut cursor = client.query_raw(&sql).fetch_bytes("TSV").map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&cursor.collect().await.map_err(|error| error.to_string())?).into_owned())
    };
    match timeout(ANSWER_WITHIN, bytes).await {
        Ok(Ok(text) | Err(text)) => text,
        Err(_) => String::new(),
    }
}

async fn names(writer: &Connection, table: &str) -> Vec<String> {
    let text = seen(writer, format!("SELECT name FROM system.{table} ORDER BY name")).await;
    text.lines().map(str::to_owned).collect()
}

fn quoted(path: &str) -> String {
    format!("'{path}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_function_of_it_finds_a_byte_outside() {
    let folder = Folder::create();
    let around = Arc::new(surroundings(&folder));
    let engine = Engine::start(options(folder.path())).await.unwrap();
    let (writer, before) = (engine.writer(), engine.pid());
    let table_functions = names(&writer, "table_functions").await;
    let functions = names(&writer, "functions WHERE NOT is_aggregate").await;
    assert!(table_functions.len() > 50 && functions.len() > 500, "{} {}", table_functions.len(), functions.len());

    let mut statements = Vec::new();
    for path in around.paths().iter().map(|path| quoted(path)) {
        for name in &table_functions {
            statements.push(format!("SELECT * FROM {name}({path})"));
            statements.push(format!("SELECT * FROM {name}({path}, 'LineAsString')"));
            statements.push(format!("SELECT * FROM {name}({path}, 'RawBLOB', 'x String')"));
        }
        // Of each a constant and a value of a row: some look at constants when the statement is read.
        statements.extend(functions.iter().map(|name| format!("SELECT {name}({path}), {name}(materialize({path}))")));
    }
    let users = [engine.reader(), engine.grafana(), engine.analyst()];
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (number, sql) in statements.iter().enumerate() {
        // Each statement of one user: they differ in grants, which come before the kernel.
        let user = users[number % users.len()].clone();
        let (permit, around, sql) =
            (Arc::clone(&permits).acquire_owned().await.unwrap(), Arc::clone(&around), sql.clone());
        running.spawn(async move {
            let text = seen(&user, sql.clone()).await;
            drop(permit);
            around.secret_in(&text).map(|secret| format!("{}: {sql}: {secret}", user.user))
        });
    }
    let found: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert!(found.is_empty() || !has_cage(&engine), "{} of {}: {found:#?}", found.len(), statements.len());
    assert_eq!((engine.pid(), engine.restarts()), (before, 0));
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn it_writes_to_none_of_our_files_and_connects_to_nobody() {
    let folder = Folder::create();
    let around = surroundings(&folder);
    let engine = Engine::start(options(folder.path())).await.unwrap();
    if !has_cage(&engine) {
        return;
    }
    let writer = engine.writer();
    let attempts = [around.data.join("engine/users.xml"), around.data.join("credentials"), around.other.join("new")];
    let contents = |path: &Path| std::fs::read(path).ok();
    let before: Vec<_> = attempts.iter().map(|path| contents(path)).collect();
    for path in &attempts {
        let sql = format!("INSERT INTO FUNCTION file('{}', 'RawBLOB', 'x String') SELECT 'changed'", path.display());
        assert!(execute(&writer, &format!("{sql} SETTINGS engine_file_truncate_on_insert = 1")).await.is_err());
    }
    assert_eq!(attempts.iter().map(|path| contents(path)).collect::<Vec<_>>(), before);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sql = format!("SELECT * FROM url('http://127.0.0.1:{port}/', 'LineAsString') SETTINGS http_max_tries = 1");
    drop(seen(&writer, sql).await);
    assert!(listener.accept().is_err(), "it connected");
    engine.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn outside_its_cage_it_runs_too_and_says_so() {
    let folder = Folder::create();
    let engine = Engine::start(EngineOptions { cage: Cage::Off, ..options(folder.path()) }).await.unwrap();
    assert_eq!(engine.cage(), Strength::Off);
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid().unwrap())).unwrap();
    assert!(status.contains("Seccomp:\t0"), "{status}");
    engine.stop(Duration::from_secs(10)).await;
}
