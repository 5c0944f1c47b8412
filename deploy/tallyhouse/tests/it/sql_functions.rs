//! Every function and table function of the engine: whether it was reviewed, and whether it shows a file.

use std::collections::BTreeSet;

use tallyhouse_query_api::adhoc::functions::{AGGREGATES, COMBINATORS, REFUSED, SCALARS, TABLES, may_be_called, names};
use tallyhouse_query_api::adhoc::sql_allow_list::check;
use tallyhouse_sql::Connection;
use tokio::task::JoinSet;

use tallyhouse_testkit::{self as support, ask, execute, new_project};

/// In every text of the events of a project that nobody here may see.
const SECRET: &str = "zxsecretzx";

/// Statements that run at a time.
const AT_A_TIME: usize = 6;

/// Below what the quota of analysts allows in an hour.
const STATEMENTS_OF_A_KEY: usize = 500;

async fn listed(writer: &Connection, sql: &str) -> BTreeSet<String> {
    let joined = ask(writer, &format!("SELECT arrayStringConcat(groupArray(name), ' ') FROM ({sql})")).await.unwrap();
    joined.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn list(texts: &[&'static str]) -> BTreeSet<String> {
    texts.iter().flat_map(|text| names(text)).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_function_of_the_engine_was_reviewed() {
    let writer = support::engine().await.writer();
    let functions = |of: &str| format!("SELECT DISTINCT name FROM system.functions WHERE origin = 'System' AND {of}");
    let all = listed(&writer, &functions("1")).await;
    assert_eq!(
        all,
        list(&[SCALARS, AGGREGATES, REFUSED]),
        "review what differs, and put it in a list of query-api/src/adhoc/functions/"
    );
    let aggregates = listed(&writer, &functions("is_aggregate")).await;
    assert!(list(&[AGGREGATES]).is_subset(&aggregates) && aggregates.is_disjoint(&list(&[SCALARS])));
    let combinators =
        listed(&writer, "SELECT name FROM system.aggregate_function_combinators WHERE NOT is_internal").await;
    assert_eq!(combinators, COMBINATORS.map(str::to_owned).into_iter().collect());

    let tables = listed(&writer, "SELECT name FROM system.table_functions").await;
    let passed: Vec<&str> = tables.iter().map(String::as_str).filter(|t| may_be_called(&t.to_lowercase())).collect();
    // `format` is a function of texts, too; as one of tables it needs a right that nobody has.
    let mut expected = [&TABLES[..], &["format"]].concat();
    expected.sort_unstable();
    assert_eq!(passed, expected);
}

/// A statement, and a file that it would show.
struct Attempt {
    user: Connection,
    sql: String,
    quota_key: String,
}

/// What an attempt gives, rows or refusal.
async fn outcome(attempt: &Attempt) -> String {
    let client = attempt.user.server();
    let client = client.with_header("X-Tallyhouse-Project", "somebody-else");
    let query = client.query_raw(&attempt.sql).with_setting("quota_key", &attempt.quota_key);
    match query.fetch_bytes("TSV") {
        Ok(mut cursor) => match cursor.collect().await {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    }
}

/// Files that a statement must not show, each with a text that is in it.
async fn files(writer: &Connection, data: &std::path::Path) -> Vec<(String, &'static str)> {
    let project = new_project();
    let insert = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, user_id, received_at, retention_days) \
         SELECT '{project}', '{SECRET}', '{SECRET}', now64(3) - toIntervalDay(700), '{SECRET}', now64(3), 731"
    );
    execute(writer, &insert).await.unwrap();
    let part = "SELECT max(path) FROM system.parts WHERE active AND database = 'tallyhouse' AND table = 'events' \
                AND partition LIKE '%731)'";
    let part = ask(writer, part).await.unwrap();
    let users = data.join("engine").join("users.xml").display().to_string();
    let files = vec![(format!("{part}data.bin"), SECRET), ("/etc/passwd".to_owned(), "root:"), (users, "sha256_hex")];
    for (path, text) in &files {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{path} has no {text}");
    }
    files
}

#[tokio::test]
async fn no_function_shows_a_file_of_the_server_or_of_another_project() {
    let shared = support::shared().await;
    let engine = &shared.engine;
    let writer = engine.writer();
    let files = files(&writer, &shared.options.data).await;
    let [(column, _), (passwd, _), (users, _)] = &files[..] else { unreachable!() };
    let functions = listed(&writer, "SELECT DISTINCT name FROM system.functions").await;
    let tables = listed(&writer, "SELECT name FROM system.table_functions").await;
    let of_function = |name: &String| {
        [format!("'{column}'"), format!("'{passwd}'"), format!("'{users}', '{users}'")]
            .map(|arguments| format!("SELECT `{name}`({arguments})"))
    };
    // Asked for another's right, it has made an empty file of that name already: here as little as may be.
    let tables = tables.into_iter().filter(|name| name != "sqlite").collect::<BTreeSet<_>>();
    let of_table = |name: &String| {
        [
            format!("'{passwd}'"),
            format!("'{column}', 'RawBLOB'"),
            format!("'{users}', 'LineAsString', 'a String'"),
            "'tallyhouse', 'events'".to_owned(),
            "tallyhouse.dead_letters".to_owned(),
        ]
        .map(|arguments| format!("SELECT * FROM `{name}`({arguments}) LIMIT 3"))
    };
    let statements: Vec<String> =
        functions.iter().flat_map(of_function).chain(tables.iter().flat_map(of_table)).collect();
    let analyst = engine.analyst();
    // The analyst's go through the allow-list; `reader` may see every row, so no table of rows is asked for.
    let passed = statements.iter().filter_map(|sql| check(sql).ok()).map(|sql| (analyst.clone(), sql));
    let direct = statements.iter().map(|sql| (engine.grafana(), sql.clone()));
    let files_alone = statements.iter().filter(|sql| !sql.contains("tallyhouse'") && !sql.contains("tallyhouse."));
    let readers = files_alone.filter(|sql| !sql.contains(" FROM ")).map(|sql| (engine.reader(), sql.clone()));
    let attempts: Vec<_> = passed.chain(direct).chain(readers).collect();
    assert!(attempts.len() > 10_000, "{}", attempts.len());

    let mut running: JoinSet<Option<String>> = JoinSet::new();
    let mut shown = Vec::new();
    for (index, (user, sql)) in attempts.into_iter().enumerate() {
        if running.len() >= AT_A_TIME {
            shown.extend(running.join_next().await.unwrap().unwrap());
        }
        let quota_key = format!("functions-{}", index / STATEMENTS_OF_A_KEY);
        running.spawn(async move {
            let attempt = Attempt { user, sql, quota_key };
            let text = outcome(&attempt).await;
            let is_shown = [SECRET, "root:", "sha256_hex"].iter().any(|marker| text.contains(marker));
            // Neither is it refused because of a quota, or because the engine is gone: it would prove nothing.
            let is_void = text.contains("QUOTA_EXCEEDED") || text.contains("network error");
            (is_shown || is_void).then(|| format!("{} {}: {text:.300}", attempt.user.user, attempt.sql))
        });
    }
    while let Some(ended) = running.join_next().await {
        shown.extend(ended.unwrap());
    }
    assert_eq!(shown, Vec::<String>::new());
    assert_eq!(engine.restarts(), 0);
}
