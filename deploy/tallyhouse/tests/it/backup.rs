//! Backups: made while events arrive, verified, and restored so that nothing is lost that the local log still has, and nothing is counted twice.

use std::fs;
use std::path::Path;

use hyper::Method;
use serde_json::Value;
use tallyhouse_sql::Connection;
use tallyhouse_testkit::{Folder, S3, eventually, execute};

use crate::installation::Installation;

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_brings_back_what_was_acknowledged_and_counts_nothing_twice() {
    let folder = Folder::create();
    let data = folder.path().join("data");
    let mut installation = Installation::on(&data);
    installation.start().await;
    installation.send(0..100, "?wait=stored").await;
    installation.done(&["backup", "create"]);
    // Some may not be stored when the backup begins: they are in the log's copy, and may be in the tables as well.
    installation.send(100..200, "").await;
    let made = installation.done(&["backup", "create", "--incremental"]);
    assert!(made.contains("-incremental") && made.contains("goes with"), "{made}");
    installation.send(200..300, "").await;
    let refused = installation.refused(&["backup", "restore", "--replace", "--yes-replace"]);
    assert!(refused.contains("is in use by another Tallyhouse"), "{refused}");
    installation.kill();

    let refused = installation.refused(&["backup", "restore"]);
    assert!(refused.contains("say so twice"), "{refused}");
    installation.refused(&["backup", "restore", "--replace"]);
    // ClickHouse's files are gone, the log is not: nothing is lost.
    fs::remove_dir_all(data.join("clickhouse")).unwrap();
    installation.done(&["backup", "restore", "--replace", "--yes-replace"]);
    installation.start().await;
    installation.counts_each_once(300).await;
    installation.send(0..300, "?wait=stored").await;
    installation.counts_each_once(300).await;
    installation.kill();

    // The whole folder is gone: what came after the backup is, too, until clients send it again.
    let backups = folder.path().join("backups");
    fs::rename(data.join("backups"), &backups).unwrap();
    fs::remove_dir_all(&data).unwrap();
    let mut installation = Installation::on(&data).with("BACKUP_DIR", &backups.display().to_string());
    installation.done(&["backup", "restore"]);
    installation.start().await;
    installation.counts_each_once(200).await;
    installation.send(0..300, "?wait=stored").await;
    installation.counts_each_once(300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_cut_short_and_a_target_that_is_not_there_are_named() {
    let folder = Folder::create();
    let target = folder.path().join("target");
    let installation =
        Installation::on(&folder.path().join("data")).with("BACKUP_TARGET", &target.display().to_string());
    let refused = installation.refused(&["backup", "create"]);
    assert!(refused.contains("BACKUP_TARGET") && refused.contains("is not there"), "{refused}");
    fs::create_dir(&target).unwrap();
    let refused = installation.refused(&["backup", "restore"]);
    assert!(refused.contains("there is no backup"), "{refused}");

    // With nothing that runs.
    installation.done(&["migrate", "up"]);
    let made = installation.done(&["backup", "create"]);
    let name = made.split_whitespace().next().unwrap();
    assert!(installation.done(&["backup", "verify"]).contains("is whole"));
    assert!(installation.done(&["backup", "list"]).contains(name));
    let credentials = target.join(name).join("credentials");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&credentials).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let cut = target.join("clickhouse").join(name).join(".backup");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let verified = installation.run(&["backup", "verify", name]);
    let printed = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(!verified.status.success() && printed.contains(".backup has"), "{verified:?}");
    let refused = installation.refused(&["backup", "restore", name, "--replace", "--yes-replace"]);
    assert!(refused.contains("is damaged"), "{refused}");
    fs::write(&cut, &bytes).unwrap();
    fs::remove_file(credentials).unwrap();
    assert!(installation.run(&["backup", "verify", name]).stdout.ends_with(b"credentials is missing\n"));
    assert!(installation.refused(&["backup", "verify", "../data"]).contains("there is no backup ../data"));
}

fn with_bucket(s3: &S3, data: &Path, target: &str) -> Installation {
    Installation::on(data)
        .with("BACKUP_TARGET", target)
        .with("BACKUP_S3_ENDPOINT", &s3.url)
        .with("BACKUP_S3_KEY_ID", "key")
        .with("BACKUP_S3_SECRET", "secret")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_holds_backups_as_a_folder_does() {
    let Some(s3) = S3::start("a_bucket_holds_backups_as_a_folder_does", "backups").await else { return };
    let folder = Folder::create();
    let (data, target) = (folder.path().join("data"), "s3://backups/some/where");
    let refused = with_bucket(&s3, &data, "s3://nowhere").refused(&["backup", "create"]);
    assert!(refused.contains("s3://nowhere") && refused.contains("404"), "{refused}");

    let mut installation = with_bucket(&s3, &data, target);
    installation.start().await;
    installation.send(0..50, "?wait=stored").await;
    // More than goes up in one request.
    let large: Vec<u8> = (0..40_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    fs::create_dir_all(data.join("ingest/records")).unwrap();
    fs::write(data.join("ingest/records/large.batch.refused"), &large).unwrap();
    installation.done(&["backup", "create"]);
    installation.send(50..70, "?wait=stored").await;
    let made: Value =
        serde_json::from_str(&installation.done(&["backup", "create", "--incremental", "--json"])).unwrap();
    assert!(made["bytes"].as_u64().unwrap() < 1 << 20, "the large file is not sent again: {made}");
    installation.kill();
    let staged = fs::read_dir(data.join("backups/clickhouse")).unwrap().count();
    assert_eq!(staged, 1, "the list of the full one, by which others are made");

    let elsewhere = with_bucket(&s3, &folder.path().join("elsewhere"), target);
    assert!(elsewhere.done(&["backup", "verify"]).contains("is whole"));
    let restored: Value = serde_json::from_str(&elsewhere.done(&["backup", "restore", "--json"])).unwrap();
    assert_eq!(restored["events"], 70, "{restored}");
    assert_eq!(fs::read(folder.path().join("elsewhere/ingest/records/large.batch.refused")).unwrap(), large);
    elsewhere.done(&["rollups", "verify"]);

    let name = made["name"].as_str().unwrap();
    let cut = format!("/backups/some/where/clickhouse/{name}/.backup");
    assert_eq!(s3.call(Method::PUT, &cut, "<config>").await, Some(200));
    let verified = elsewhere.run(&["backup", "verify"]);
    assert!(!verified.status.success() && verified.stdout.starts_with(b"clickhouse/"), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_clickhouse_writes_and_reads_its_tables_itself() {
    let folder = Folder::create();
    let (backups, destination) = (folder.path().join("backups"), folder.path().join("backups/clickhouse"));
    let server = Installation::on(&folder.path().join("server"));
    let mut server = server.with("BACKUP_DIR", &backups.display().to_string());
    server.start_store();
    let url = format!("http://127.0.0.1:{}", server.clickhouse_port());
    let given = |data: &str| {
        let given =
            Installation::on(&folder.path().join(data)).with("CLICKHOUSE_URL", &url).with("CLICKHOUSE_USER", "writer");
        given.with("USER_HASH_KEY", "000102030405060708090a0b0c0d0e0f")
    };
    let has_password = || server.password().is_some();
    eventually("there are credentials", async || has_password()).await;
    let commands = given("commands").with("CLICKHOUSE_PASSWORD", &server.password().unwrap());
    eventually("there are tables", async || commands.run(&["migrate", "check"]).status.success()).await;
    let refused = commands.refused(&["backup", "create"]);
    assert!(refused.contains("BACKUP_CLICKHOUSE: is not set"), "{refused}");

    let commands = commands.with("BACKUP_CLICKHOUSE", &format!("folder:{}", destination.display()));
    commands.done(&["projects", "create", "before"]);
    commands.done(&["backup", "create"]);
    commands.done(&["projects", "create", "between"]);
    commands.done(&["backup", "create", "--incremental"]);
    commands.done(&["projects", "create", "after"]);
    let refused = commands.refused(&["backup", "restore"]);
    assert!(refused.contains("holds data already"), "{refused}");
    commands.done(&["backup", "restore", "--replace", "--yes-replace"]);
    let projects = commands.done(&["projects", "list"]);
    let has = |name: &str| projects.lines().any(|line| line.split_whitespace().next() == Some(name));
    assert!(has("before") && has("between") && !has("after"), "{projects}");

    // One of two shards, by its own record: the rows of the other one would not come back.
    let writer =
        Connection { url: url.clone(), user: "writer".to_owned(), password: server.password().unwrap(), tls: None };
    let table = "tallyhouse.shards (number UInt32, is_here UInt8, added_at DateTime64(3)) ENGINE = ReplacingMergeTree";
    execute(&writer, &format!("CREATE TABLE {table} ORDER BY number")).await.unwrap();
    execute(&writer, "INSERT INTO tallyhouse.shards VALUES (1, 1, now64(3)), (2, 0, now64(3))").await.unwrap();
    for asked in [&["backup", "create"][..], &["backup", "restore", "--replace", "--yes-replace"]] {
        let refused = commands.refused(asked);
        assert!(refused.contains("of a cluster of 2 shards"), "{asked:?}: {refused}");
    }
    assert_eq!(commands.done(&["projects", "list"]), projects, "nothing was dropped");
}
