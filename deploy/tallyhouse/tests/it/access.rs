//! Who may do what in ClickHouse.

use std::os::unix::fs::PermissionsExt;

use tallyhouse::credentials::Credentials;
use tallyhouse_sql::Connection;

use tallyhouse_testkit::{self as support, Folder, ask, execute};

#[tokio::test]
async fn the_engines_own_users_let_nobody_in() {
    let engine = support::engine().await;
    for (user, password) in [("default", ""), ("default", "dev"), ("definer", ""), ("definer", "dev")] {
        let stranger = Connection {
            url: engine.http_url().to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            tls: None,
        };
        let refused = ask(&stranger, "SELECT 1").await.unwrap_err();
        assert!(refused.contains("Code: 700") || refused.contains("Code: 516"), "{refused}");
    }
}

#[tokio::test]
async fn the_reader_only_reads_and_cannot_lift_its_limits() {
    let engine = support::engine().await;
    let reader = engine.reader();
    assert!(ask(&reader, "SELECT count() FROM tallyhouse.events").await.is_ok());
    for (forbidden, code) in [
        ("INSERT INTO tallyhouse.events_in (project_id) VALUES ('x')", "Code: 497"),
        ("DROP TABLE tallyhouse.events", "Code: 497"),
        ("CREATE TABLE tallyhouse.t (a UInt8) ENGINE = Null", "Code: 497"),
        ("CREATE TEMPORARY TABLE t (a UInt8)", "Code: 497"),
        ("SELECT 1 SETTINGS max_execution_time = 601", "Code: 452"),
        ("SELECT 1 SETTINGS max_execution_time = 0", "Code: 452"),
        ("SELECT 1 SETTINGS max_memory_usage = 0", "Code: 452"),
        ("SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')", "Code: 497"),
        ("SELECT * FROM file('/etc/hostname', 'LineAsString')", "Code: 497"),
        ("SELECT * FROM system.parts", "Code: 497"),
        ("SELECT * FROM system.users", "Code: 497"),
    ] {
        let refused = execute(&reader, forbidden).await.expect_err(forbidden);
        assert!(refused.contains(code), "{forbidden}: {refused}");
    }
}

#[tokio::test]
async fn whatever_decides_about_counting_once_is_pinned_for_the_writer() {
    let writer = support::engine().await.writer();
    for (setting, value) in [
        ("async_insert", "0"),
        ("deduplicate_insert", "enable"),
        ("deduplicate_blocks_in_dependent_materialized_views", "1"),
        ("deduplicate_insert_select", "disable"),
        ("optimize_on_insert", "0"),
        ("parallel_view_processing", "1"),
    ] {
        assert_eq!(
            ask(&writer, &format!("SELECT value FROM system.settings WHERE name = '{setting}'")).await.unwrap(),
            value,
            "{setting}"
        );
    }
}

#[test]
fn credentials_are_made_once_and_for_the_owner_alone() {
    let folder = Folder::create();
    let data = folder.path().join("data");
    let made = Credentials::load_or_create(&data).unwrap();
    let path = data.join("credentials");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Credentials::load_or_create(&data).unwrap(), made);
    assert_eq!(made.user_hash_key.expose().len(), 32);
    assert_ne!(made.writer, made.reader);
    // The file of a version without analysts: a password is made for them, and kept.
    let older: String = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .filter(|l| !l.starts_with("ANALYST"))
        .fold(String::new(), |text, line| text + line + "\n");
    std::fs::write(&path, older).unwrap();
    let completed = Credentials::load_or_create(&data).unwrap();
    assert_eq!((&completed.writer, &completed.user_hash_key), (&made.writer, &made.user_hash_key));
    assert_eq!(Credentials::load_or_create(&data).unwrap().analyst, completed.analyst);
    assert!(!format!("{made:?}").contains(made.writer.expose()));

    // A development folder of an older version keeps the key that its users are hashed under; passwords are new, each its own.
    let older = Folder::create();
    std::fs::create_dir_all(older.path().join("clickhouse")).unwrap();
    let development = Credentials::for_development(older.path()).unwrap();
    assert_eq!(development.user_hash_key, Credentials::fixed().user_hash_key);
    assert_ne!(development.reader, Credentials::fixed().reader);
    let new = Folder::create();
    let development = Credentials::for_development(new.path()).unwrap();
    assert_ne!(development.user_hash_key, Credentials::fixed().user_hash_key);
    assert_eq!(Credentials::for_development(new.path()).unwrap(), development);

    std::fs::write(&path, "WRITER_PASSWORD=a\nREADER_PASSWORD=b\nGRAFANA_PASSWORD=c\n").unwrap();
    let error = Credentials::load_or_create(&data).unwrap_err().to_string();
    assert!(error.contains("USER_HASH_KEY is missing"), "{error}");
}
