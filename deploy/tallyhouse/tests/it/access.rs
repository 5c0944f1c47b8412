//! Who may do what in ClickHouse.

use std::os::unix::fs::PermissionsExt;

use tallyhouse::credentials::Credentials;
use tallyhouse_sql::Connection;

use tallyhouse_testkit::{self as support, Folder, GRAFANA_PROJECT, ask, execute};

/// One event of a project, through the front door of all tables.
async fn store(writer: &Connection, project: &str) {
    let event = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, received_at, original_ts, retention_days) \
         SELECT '{project}', 'e', 'seen', now64(3), now64(3), now64(3), 730"
    );
    execute(writer, &event).await.unwrap();
}

#[tokio::test]
async fn the_engines_own_user_lets_nobody_in() {
    let engine = support::engine().await;
    for password in ["", "dev"] {
        let stranger =
            Connection { url: engine.http_url().to_owned(), user: "default".to_owned(), password: password.to_owned() };
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
async fn dashboards_see_their_projects_in_every_table_that_they_see() {
    let engine = support::engine().await;
    let (writer, grafana) = (engine.writer(), engine.grafana());
    store(&writer, GRAFANA_PROJECT).await;
    store(&writer, "hidden-from-grafana").await;

    let tables = "SELECT arrayStringConcat(groupArray(name), ',') FROM system.tables WHERE database = 'tallyhouse'";
    let tables = ask(&writer, tables).await.unwrap();
    let mut seen = Vec::new();
    for table in tables.split(',') {
        match ask(&grafana, &format!("SELECT count() FROM tallyhouse.`{table}`")).await {
            Ok(_) => seen.push(table),
            Err(refused) => assert!(refused.contains("Code: 497"), "{table}: {refused}"),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["events", "rollup_1d", "rollup_1h", "rollup_1m"]);
    for table in seen {
        let count = |projects: &str| format!("SELECT count() FROM tallyhouse.{table} WHERE project_id {projects}");
        let own = count(&format!("= '{GRAFANA_PROJECT}'"));
        let foreign = count(&format!("NOT IN ('{GRAFANA_PROJECT}', 'demo')"));
        assert_ne!(ask(&grafana, &own).await.unwrap(), "0", "{table} hides what should be seen");
        assert_eq!(ask(&grafana, &foreign).await.unwrap(), "0", "{table} shows other projects");
        assert_ne!(ask(&writer, &foreign).await.unwrap(), "0", "{table} has nothing to hide: the test proves nothing");
    }
}

#[tokio::test]
async fn the_datasource_may_send_a_deadline_and_nothing_else() {
    let grafana = support::engine().await.grafana();
    execute(&grafana, "SELECT 1 SETTINGS max_execution_time = 30").await.unwrap();
    for forbidden in ["SELECT 1 SETTINGS max_execution_time = 65", "SELECT 1 SETTINGS max_rows_to_read = 0"] {
        let refused = execute(&grafana, forbidden).await.expect_err(forbidden);
        assert!(refused.contains("Code: 452") || refused.contains("Code: 164"), "{forbidden}: {refused}");
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

    std::fs::write(&path, "WRITER_PASSWORD=a\nREADER_PASSWORD=b\nGRAFANA_PASSWORD=c\n").unwrap();
    let error = Credentials::load_or_create(&data).unwrap_err().to_string();
    assert!(error.contains("USER_HASH_KEY is missing"), "{error}");
}
