//! Attempts of an analyst to see another project's rows, to read what is not a table of events, or to change anything.
//!
//! Each runs through `POST /v1/sql`, and again straight to ClickHouse as the user `analyst`, to show what the grants and row
//! policies alone refuse.

use serde_json::json;
use tallyhouse_sql::Connection;
use tallyhouse_sql::clickhouse::Client;

use crate::sql_api::{ask, service};
use tallyhouse_testkit::query_service::Service;
use tallyhouse_testkit::{self as support, insert_events, new_project, ten_days_ago};

/// In every row of the other project, and in no attempt: wherever it is seen, a row was seen.
const SECRET: &str = "zxsecretzx";

/// Attempts that ClickHouse itself holds back: `{other}` is the other project.
const HELD_BY_CLICKHOUSE: &[&str] = &[
    "SELECT * FROM events",
    "SELECT * FROM tallyhouse.events WHERE project_id = '{other}'",
    "SELECT * FROM events WHERE 1 = 1 OR project_id != ''",
    "SELECT * FROM events FINAL PREWHERE project_id = '{other}'",
    "SELECT * FROM events SAMPLE 1 WHERE project_id = '{other}'",
    "SELECT * FROM (SELECT * FROM events WHERE project_id = '{other}')",
    "SELECT 1 AS project_id UNION ALL SELECT user_id FROM events",
    "SELECT user_id FROM events UNION DISTINCT SELECT user_id FROM tallyhouse.events WHERE project_id = '{other}'",
    "SELECT b.user_id FROM numbers(1) AS a CROSS JOIN events AS b WHERE b.project_id = '{other}'",
    "SELECT b.user_id FROM events AS a RIGHT JOIN events AS b ON a.event_id != b.event_id AND b.project_id = '{other}'",
    "SELECT (SELECT groupArray(user_id) FROM events WHERE project_id = '{other}')",
    "WITH other AS (SELECT user_id FROM events WHERE project_id = '{other}') SELECT * FROM other",
    "WITH RECURSIVE r AS (SELECT user_id FROM events UNION ALL SELECT user_id FROM r WHERE 0) SELECT * FROM r",
    "SELECT 1 WHERE 'user' IN (SELECT user_id FROM events WHERE throwIf(user_id != '', 'found it') = 0)",
    "SELECT throwIf(user_id != '', 'found it') FROM events",
    "SELECT count() FROM events PREWHERE throwIf(project_id = '{other}', 'found it') = 0",
    "SELECT CAST(user_id AS UInt8) FROM events WHERE project_id = '{other}'",
    "SELECT toDate(event_id), toUInt64(project_id) FROM events WHERE toUInt64(project_id) = 5",
    "SELECT min(user_id), max(project_id), count() FROM events",
    "SELECT any(user_id) FROM events GROUP BY ALL WITH TOTALS",
    "SELECT topK(10)(project_id), uniq(project_id) FROM events HAVING uniq(project_id) > 0",
    "SELECT DISTINCT project_id FROM rollup_1m",
    "SELECT DISTINCT project_id FROM rollup_1h WHERE project_id = '{other}'",
    "SELECT project_id, sum(events) FROM rollup_1d GROUP BY ROLLUP(project_id)",
    "SELECT user_id FROM merge('tallyhouse', 'events')",
    "SELECT user_id FROM merge('tallyhouse', '.*') WHERE project_id = '{other}'",
    "SELECT user_id FROM merge('events')",
    "SELECT * FROM view(SELECT user_id FROM events WHERE project_id = '{other}')",
    "SELECT * FROM viewIfPermitted(SELECT user_id FROM dead_letters ELSE null('user_id String'))",
    "SELECT * FROM loop(events) LIMIT 1000",
    "SELECT * FROM events_in",
    "SELECT * FROM dead_letters",
    "SELECT * FROM migrations",
    "SELECT * FROM events_view",
    "SELECT * FROM cluster('default', tallyhouse.events)",
    "SELECT * FROM remote('127.0.0.1', tallyhouse.events)",
    "SELECT * FROM remote('127.0.0.1:{tcp}', tallyhouse.events, 'writer', 'dev')",
    "SELECT * FROM remoteSecure('127.0.0.1', tallyhouse.events)",
    "SELECT * FROM url('{http}/?user=writer&password=dev&query=SELECT+user_id+FROM+tallyhouse.events', 'CSV', 'a String')",
    "DESCRIBE TABLE url('{http}/?user=writer&password=dev&query=SELECT+1')",
    "SELECT * FROM s3('{http}/x', 'CSV', 'a String')",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM mysql('127.0.0.1:3306', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:5432', 'a', 'b', 'c', 'd')",
    "SELECT * FROM sqlite('/etc/passwd', 'a')",
    "SELECT * FROM executable('cat /etc/passwd', 'LineAsString', 'a String')",
    "SELECT * FROM input('a String')",
    "SELECT * FROM dictionary('tallyhouse.events')",
    "SELECT dictGet('tallyhouse.events', 'user_id', 1)",
    "SELECT joinGet('tallyhouse.events', 'user_id', 1)",
    "SELECT hasColumnInTable('127.0.0.1', 'writer', 'dev', 'tallyhouse', 'events', 'ts') FROM events_in",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT * FROM events))",
    "SELECT user_id FROM events INTO OUTFILE '/tmp/tallyhouse-escape'",
    "SELECT 1; SELECT user_id FROM events",
    "SELECT 1; DROP TABLE tallyhouse.events",
    "SELECT user_id FROM events SETTINGS readonly = 0",
    "SELECT user_id FROM events SETTINGS additional_table_filters = {'tallyhouse.events': '1'}",
    "SELECT user_id FROM (SELECT * FROM events SETTINGS readonly = 0, additional_table_filters = {'tallyhouse.events': '1'})",
    "SELECT user_id FROM (SELECT * FROM events SETTINGS allow_get_client_http_header = 0)",
    "SELECT user_id FROM (SELECT * FROM events SETTINGS log_comment = '{other}', apply_row_level_security = 0)",
    "SELECT getSetting('readonly'), currentUser(), getClientHTTPHeader('X-ClickHouse-Key')",
    "SELECT sleep(0.01)",
    "SELECT * FROM system.processes",
    "SELECT * FROM system.users",
    "SELECT * FROM system.row_policies",
    "SHOW CREATE USER writer",
    "SHOW PROCESSLIST",
    "SHOW GRANTS FOR writer",
    "KILL QUERY WHERE 1",
    "SET readonly = 0",
    "SET ROLE ALL",
    "EXECUTE AS writer SELECT user_id FROM tallyhouse.events",
    "INSERT INTO tallyhouse.events_in (project_id) VALUES ('{own}')",
    "ALTER TABLE tallyhouse.events DELETE WHERE 1",
    "DELETE FROM tallyhouse.events WHERE 1",
    "TRUNCATE TABLE tallyhouse.events",
    "OPTIMIZE TABLE tallyhouse.events FINAL",
    "CREATE TEMPORARY TABLE t AS SELECT 1",
    "CREATE VIEW tallyhouse.v AS SELECT * FROM tallyhouse.events",
    "CREATE FUNCTION f AS x -> x",
    "CREATE USER evil",
    "GRANT SELECT ON *.* TO analyst",
    "ATTACH TABLE tallyhouse.t FROM '/etc' (a String) ENGINE = Null",
    "BACKUP DATABASE tallyhouse TO File('x')",
    "SYSTEM RELOAD CONFIG",
    "CHECK TABLE tallyhouse.events",
];

/// Attempts that only the service's own guard holds back.
const HELD_BY_THE_GUARD: &[&str] = &[
    "SELECT file('/etc/passwd') AS root",
    "SELECT * APPLY(file) FROM (SELECT '/etc/passwd' AS root)",
    "SELECT arrayMap(file, ['/etc/passwd'])",
    "SELECT `file`('/etc/passwd')",
    "SELECT `fil\\x65`('/etc/passwd')",
    "SELECT \u{201c}file\u{201d}('/etc/passwd')",
    "SELECT 1 //'\n, file('/etc/passwd') //'",
    "SELECT 1 #'\n, file('/etc/passwd') #'",
    "SELECT * FROM //'\nmergeTreeIndex('tallyhouse', 'events') //'",
    "SELECT count() FROM (SELECT number FROM numbers(2000000000) WHERE number > .5SETTINGS max_rows_to_read = 0)",
    "SELECT count() FROM (SELECT number FROM numbers(2000000000) WHERE number > .5e3SETTINGS max_rows_to_read = 0)",
    "SELECT project_id, user_hash FROM mergeTreeIndex('tallyhouse', 'events')",
    "SELECT name, total_rows FROM system.tables",
    "SELECT * FROM information_schema.tables",
    "EXPLAIN indexes = 1 SELECT * FROM events",
    "EXPLAIN ESTIMATE SELECT * FROM events",
    "SELECT count() FROM (SELECT number FROM numbers(2000000000) SETTINGS max_rows_to_read = 0)",
    "SELECT min(_part_offset) FROM events",
    "SELECT 1 FORMAT Native",
    "SHOW CREATE TABLE tallyhouse.events",
    "USE default",
];

/// What an analyst of `own` would be told by ClickHouse itself: rows, or a refusal.
async fn straight(analyst: &Client, sql: &str) -> Result<String, String> {
    let mut cursor = analyst.query_raw(sql).fetch_bytes("TSV").map_err(|error| error.to_string())?;
    let bytes = cursor.collect().await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether rows or a refusal show that a row of the other project, or a file of the server, was read.
fn shows(rows: &str, refusal: &str, sql: &str, other: &str) -> bool {
    let tells_of_other = rows.contains(other) || !sql.contains(other) && refusal.contains(other);
    let threw = refusal.starts_with("found it") || refusal.contains("Exception: found it");
    let is_secret = |text: &str| text.contains(SECRET) || text.contains("root:");
    tells_of_other || threw || is_secret(rows) || is_secret(refusal)
}

/// Ten events whose every text is the secret.
async fn insert_secret(writer: &Connection, project: &str) {
    let insert = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, value, user_id, anonymous_id, session_id, \
         country, page, props, dims, user_hash, received_at, retention_days) SELECT '{project}', concat('{SECRET}', \
         toString(number)), '{SECRET}', now64(3) - toIntervalDay(10), 1, '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', \
         '{SECRET}', map('a', '{SECRET}'), [('country', '{SECRET}')], 1, now64(3), 730 FROM numbers(10)"
    );
    support::unheld(async || support::execute(writer, &insert).await).await.unwrap();
}

/// Everything that must not change.
async fn state(writer: &Connection, other: &str) -> String {
    let rows = format!("SELECT count() FROM tallyhouse.events WHERE project_id = '{other}'");
    let tables =
        "SELECT groupArray(name) FROM (SELECT name FROM system.tables WHERE database = 'tallyhouse' ORDER BY name)";
    format!("{:?} {:?}", support::ask(writer, &rows).await, support::ask(writer, tables).await)
}

/// An analyst of one project, and where the rows of another one are.
pub struct Attempts<'a> {
    pub service: &'a Service,
    /// The user of the first project, straight to ClickHouse.
    pub analyst: Client,
    pub own: &'a str,
    pub other: &'a str,
    /// Every server.
    pub writers: &'a [Connection],
    /// The native port of one.
    pub tcp_port: u16,
    /// What else is tried.
    pub more: &'a [&'a str],
}

impl Attempts<'_> {
    /// Tries all.
    pub async fn fail(&self) {
        let Self { service, own, other, .. } = *self;
        for writer in self.writers {
            insert_events(writer, own, ten_days_ago(), 1).await;
            insert_secret(writer, other).await;
        }
        let before = self.state().await;
        let held = || HELD_BY_CLICKHOUSE.iter().chain(self.more);
        for sql in held().map(|sql| self.filled(sql)) {
            let seen = straight(&self.analyst, &sql).await;
            let (rows, text) = seen.as_ref().map_or_else(|text| ("", text.as_str()), |rows| (rows.as_str(), ""));
            assert!(!shows(rows, text, &sql, other), "straight: {sql}: {seen:.500?}");
        }
        for sql in held().chain(HELD_BY_THE_GUARD).map(|sql| self.filled(sql)) {
            let reply = ask(service, own, &json!({"sql": sql})).await;
            let text = reply.body["message"].as_str().unwrap_or_default();
            assert!(!shows(&reply.body["rows"].to_string(), text, &sql, other), "{sql}: {reply:.500?}");
            assert!(matches!(reply.status.as_u16(), 200 | 400), "{sql}: {reply:?}");
        }
        for sql in HELD_BY_THE_GUARD {
            let reply = ask(service, own, &json!({"sql": sql})).await;
            assert_eq!((reply.status.as_u16(), &reply.body["code"]), (400, &json!("bad_sql")), "{sql}: {reply:?}");
        }
        assert_eq!(self.state().await, before, "something was changed");
        assert!(!std::path::Path::new("/tmp/tallyhouse-escape").exists());
        // The other project sees its own rows: there was something to be seen.
        let seen = json!({"sql": "SELECT project_id, user_id, count() FROM events GROUP BY 1, 2"});
        let seen = ask(service, other, &seen).await;
        assert_eq!(seen.body["rows"], json!([[other, SECRET, 10 * self.writers.len()]]), "{seen:?}");
    }

    fn filled(&self, sql: &str) -> String {
        sql.replace("{other}", self.other)
            .replace("{own}", self.own)
            .replace("{http}", &self.writers[0].url)
            .replace("{tcp}", &self.tcp_port.to_string())
    }

    async fn state(&self) -> Vec<String> {
        let mut states = Vec::new();
        for writer in self.writers {
            states.push(state(writer, self.other).await);
        }
        states
    }
}

#[tokio::test]
async fn no_attempt_shows_another_projects_rows_or_changes_anything() {
    let shared = support::shared().await;
    let (own, other) = (new_project(), new_project());
    let service = service(&[&own, &other]).await;
    let attempts = Attempts {
        service: &service,
        analyst: shared.engine.analyst().client().with_header("X-Tallyhouse-Project", &own),
        own: &own,
        other: &other,
        writers: &[shared.engine.writer()],
        tcp_port: shared.options.tcp_port.unwrap(),
        more: &[],
    };
    attempts.fail().await;
    service.stop().await;
}

#[tokio::test]
async fn two_projects_with_the_same_question_get_their_own_answers() {
    let (engine, from) = (support::engine().await, ten_days_ago());
    let (one, two) = (new_project(), new_project());
    insert_events(&engine.writer(), &one, from, 1).await;
    insert_events(&engine.writer(), &two, from, 2).await;
    let service = service(&[&one, &two]).await;
    let request = json!({"sql": "SELECT count(), any(project_id) FROM events WHERE device = 'web'"});
    for _ in 0..5 {
        for (project, events) in [(&one, 3), (&two, 6)] {
            assert_eq!(ask(&service, project, &request).await.body["rows"], json!([[events, project]]));
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn without_the_services_header_there_are_no_rows() {
    let engine = support::engine().await;
    insert_events(&engine.writer(), &new_project(), ten_days_ago(), 1).await;
    for table in ["events", "rollup_1m", "rollup_1h", "rollup_1d"] {
        let count = format!("SELECT count() FROM tallyhouse.{table}");
        assert_eq!(support::ask(&engine.analyst(), &count).await.unwrap(), "0", "{table}");
    }
    // The asking query itself runs: even that one is not seen.
    let count = "SELECT count() FROM system.processes";
    assert_eq!(support::ask(&engine.analyst(), count).await.unwrap(), "0");
    assert_ne!(support::ask(&engine.reader(), count).await.unwrap(), "0");
}

#[tokio::test]
async fn the_files_for_given_servers_are_understood() {
    let writer = support::engine().await.writer();
    for file in [
        include_str!("../../../sql/access/services.sql"),
        include_str!("../../../sql/access/cluster.sql"),
        include_str!("../../../sql/access/dashboards.sql"),
        include_str!("../../../sql/access/dashboards.cluster.sql"),
        include_str!("../../../sql/access/analyst.sql"),
        include_str!("../../../sql/access/analyst.cluster.sql"),
    ] {
        let statements = file.split(";\n").map(str::trim).filter(|statement| !statement.is_empty());
        for statement in statements {
            support::execute(&writer, &format!("EXPLAIN AST {statement}"))
                .await
                .unwrap_or_else(|e| panic!("{statement}: {e}"));
        }
    }
}
