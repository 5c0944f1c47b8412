//! What dashboards and BI tools see through the views, and what they cannot see.

use tallyhouse_sql::Connection;

use tallyhouse_testkit::{self as support, GRAFANA_PROJECT, ask, execute, insert_events, new_project, ten_days_ago};

const VIEWS: [&str; 4] = ["events", "series_1m", "series_1h", "series_1d"];

/// In every text of every event of a project that dashboards do not see.
const SECRET: &str = "zxsecretzx";

/// Rows as text, or ClickHouse's refusal.
async fn rows(connection: &Connection, sql: &str, settings: &[(&str, &str)]) -> Result<String, String> {
    // As a tool that names no database: what is read then is the user's own.
    let client = connection.server();
    let query = client.query_raw(sql);
    let query = settings.iter().fold(query, |query, (name, value)| query.with_setting(*name, *value));
    let mut cursor = query.fetch_bytes("TSV").map_err(|error| error.to_string())?;
    let bytes = cursor.collect().await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Events of a project that dashboards see, and of one that they do not.
async fn projects(writer: &Connection) -> String {
    insert_events(writer, GRAFANA_PROJECT, ten_days_ago(), 48).await;
    let other = new_project();
    let insert = format!(
        "INSERT INTO tallyhouse.events_in (project_id, event_id, event_type, ts, value, user_id, props, dims, user_hash, received_at, \
         retention_days) SELECT '{other}', concat('{SECRET}', toString(number)), '{SECRET}', now64(3) - toIntervalDay(10), 1, '{SECRET}', \
         map('a', '{SECRET}'), [('country', '{SECRET}')], 1, now64(3), 730 FROM numbers(20000)"
    );
    execute(writer, &insert).await.unwrap();
    other
}

#[tokio::test]
async fn the_views_show_what_the_rollups_hold_of_their_projects_alone() {
    let engine = support::engine().await;
    let (writer, grafana) = (engine.writer(), engine.grafana());
    let other = projects(&writer).await;
    for view in VIEWS {
        let own = format!("SELECT count() FROM {view} WHERE project_id = '{GRAFANA_PROJECT}'");
        assert_ne!(rows(&grafana, &own, &[]).await.unwrap(), "0\n", "{view} hides what should be seen");
        let foreign = format!(
            "SELECT count() FROM tallyhouse_views.{view} WHERE project_id NOT IN ('{GRAFANA_PROJECT}', 'demo')"
        );
        assert_eq!(rows(&grafana, &foreign, &[]).await.unwrap(), "0\n", "{view} shows other projects");
        let all = format!("SELECT count() FROM tallyhouse_views.{view}");
        // A view shows each user what is said of it, and nobody else is named.
        assert_eq!(ask(&writer, &all).await.unwrap(), "0", "{view}");
    }
    assert_ne!(
        ask(&writer, &format!("SELECT count() FROM tallyhouse.events WHERE project_id = '{other}'")).await.unwrap(),
        "0"
    );
    for (table, precision) in [("1m", 12), ("1h", 14), ("1d", 14)] {
        let merged = format!(
            "SELECT sum(events), uniqCombined64Merge({precision})(users), sum(value_count), sum(value_sum), toFloat64(min(value_min)), \
             toFloat64(max(value_max)), sum(value_sum) / sum(value_count) FROM tallyhouse.rollup_{table} \
             WHERE project_id = '{GRAFANA_PROJECT}' AND event_type = 'purchase' AND dim_set = '' GROUP BY bucket ORDER BY bucket"
        );
        let seen = format!(
            "SELECT events, users, value_count, value_sum, value_min, value_max, value_avg FROM series_{table} \
             WHERE project_id = '{GRAFANA_PROJECT}' AND event_type = 'purchase' AND dim_set = '' ORDER BY bucket"
        );
        assert_eq!(rows(&grafana, &seen, &[]).await, rows(&writer, &merged, &[]).await);
        let quantiles = format!(
            "SELECT count(), countIf(abs(value_p50 / 10 - 1) < 0.02 AND abs(value_p95 / 10 - 1) < 0.02 AND abs(value_p99 / 10 - 1) < 0.02) \
             FROM series_{table} WHERE event_type = 'purchase' AND dim_set = '' AND project_id = '{GRAFANA_PROJECT}'"
        );
        let counted = rows(&grafana, &quantiles, &[]).await.unwrap();
        let (all, near) = counted.trim().split_once('\t').unwrap();
        assert!(all == near && all != "0", "{counted}");
    }
}

#[tokio::test]
async fn what_a_tool_lists_is_the_views_and_no_column_of_states() {
    let grafana = support::engine().await.grafana();
    let listed = |sql: &'static str| async { rows(&support::engine().await.grafana(), sql, &[]).await.unwrap() };
    assert_eq!(listed("SHOW DATABASES").await, "tallyhouse_views\n");
    assert_eq!(listed("SHOW TABLES").await, "events\nseries_1d\nseries_1h\nseries_1m\n");
    assert_eq!(listed("SELECT currentDatabase()").await, "tallyhouse_views\n");
    assert_eq!(listed("SELECT count() > 40 FROM system.columns WHERE database = 'tallyhouse_views'").await, "1\n");
    assert_eq!(listed("SELECT name FROM system.columns WHERE type LIKE '%AggregateFunction%'").await, "");
    assert_eq!(listed("SELECT DISTINCT toString(data_paths) FROM system.tables").await, "[]\n");
    for view in VIEWS {
        rows(&grafana, &format!("SELECT * FROM {view} LIMIT 10"), &[]).await.unwrap();
    }
}

#[tokio::test]
async fn filters_on_a_view_reach_the_primary_key() {
    let engine = support::engine().await;
    let (writer, grafana) = (engine.writer(), engine.grafana());
    projects(&writer).await;
    for (sql, keys) in [
        (
            "SELECT bucket, sum(events) FROM series_1m WHERE KEY AND bucket >= now() - INTERVAL 20 DAY GROUP BY bucket",
            "dim_set bucket",
        ),
        (
            "SELECT bucket, max(value_p95) FROM series_1h WHERE KEY AND bucket >= now() - INTERVAL 20 DAY GROUP BY bucket",
            "dim_set bucket",
        ),
        (
            "SELECT bucket, sum(users) FROM series_1d WHERE KEY AND dim_value = 'DE' AND bucket >= today() - 20 GROUP BY bucket",
            "dim_set dim_value bucket",
        ),
        ("SELECT count() FROM events WHERE event_type = 'purchase' AND ts >= now() - INTERVAL 20 DAY", "ts"),
    ] {
        let sql = sql.replace("KEY", "event_type = 'purchase' AND dim_set = ''");
        let plan = rows(&grafana, &format!("EXPLAIN indexes = 1 {sql}"), &[]).await.unwrap();
        let primary = plan.split("PrimaryKey").nth(1).unwrap_or_default();
        for key in keys.split(' ').chain(["project_id", "event_type"]) {
            assert!(primary.contains(key), "{key} is not looked up: {sql}\n{plan}");
        }
        assert!(!primary.contains("Condition: true"), "{sql}\n{plan}");
    }
}

#[tokio::test]
async fn an_analysts_statement_reads_its_own_projects_rows() {
    let engine = support::engine().await;
    let writer = engine.writer();
    projects(&writer).await;
    let client = engine.analyst().client().with_header("X-Tallyhouse-Project", GRAFANA_PROJECT);
    for table in ["events", "rollup_1m", "rollup_1h", "rollup_1d"] {
        let sql = format!("EXPLAIN indexes = 1 SELECT count() FROM tallyhouse.{table} WHERE NOT ignore(event_type)");
        let bytes = client.query_raw(&sql).fetch_bytes("TSV").unwrap().collect().await.unwrap();
        let plan = String::from_utf8_lossy(&bytes).into_owned();
        let primary = plan.split("PrimaryKey").nth(1).unwrap_or_default();
        assert!(primary.contains("project_id") && !primary.contains("Condition: true"), "{table}: {plan}");
    }
}

/// Settings that change the order in which conditions are looked at, or add conditions.
const ORDERS: [&[(&str, &str)]; 7] = [
    &[],
    &[("short_circuit_function_evaluation", "disable")],
    &[("query_plan_enable_optimizations", "0"), ("short_circuit_function_evaluation", "disable")],
    &[("enable_analyzer", "0"), ("short_circuit_function_evaluation", "disable")],
    &[("optimize_move_to_prewhere", "0"), ("enable_multiple_prewhere_read_steps", "0")],
    &[("additional_table_filters", "{'tallyhouse.events': '1', 'tallyhouse_views.events': '1 OR 1'}")],
    &[("move_all_conditions_to_prewhere", "1"), ("short_circuit_function_evaluation", "disable")],
];

#[tokio::test]
async fn no_condition_sees_another_projects_row() {
    let engine = support::engine().await;
    let (writer, grafana) = (engine.writer(), engine.grafana());
    let other = projects(&writer).await;
    for settings in ORDERS {
        for sql in [
            format!("SELECT count() FROM events WHERE throwIf(project_id = '{other}', 'found it') = 0"),
            format!("SELECT count() FROM events WHERE throwIf(user_id = '{SECRET}', 'found it') = 0"),
            format!("SELECT count() FROM events WHERE throwIf(props['a'] = '{SECRET}', 'found it') = 0"),
            format!("SELECT count() FROM series_1h WHERE throwIf(dim_value = '{SECRET}', 'found it') = 0"),
            format!(
                "SELECT count() FROM series_1d WHERE throwIf(event_type = '{SECRET}', 'found it') = 0 OR bucket > now()"
            ),
            format!("SELECT count() FROM events WHERE toUInt64OrZero(project_id) = 0 AND project_id = '{other}'"),
        ] {
            let seen = rows(&grafana, &sql, settings).await;
            let text = seen.clone().unwrap_or_else(|refused| refused);
            assert!(seen.is_ok() && !text.contains("found it"), "{sql} {settings:?}: {text}");
        }
    }
    let filtered = [("additional_table_filters", "{'tallyhouse_views.events': 'country = \\'DE\\''}")];
    let count = "SELECT count() > 0, countIf(country != 'DE') FROM events";
    assert_eq!(rows(&grafana, count, &filtered).await.unwrap(), "1\t0\n");
}

#[tokio::test]
async fn nothing_behind_the_views_can_be_asked() {
    let grafana = support::engine().await.grafana();
    for forbidden in [
        "SELECT * FROM tallyhouse.events",
        "SELECT users FROM tallyhouse.rollup_1h",
        "SELECT * FROM tallyhouse.dead_letters",
        "SELECT * FROM mergeTreeIndex('tallyhouse', 'rollup_1h')",
        "SELECT * FROM mergeTreeAnalyzeIndexes('tallyhouse', 'rollup_1h')",
        "SELECT * FROM mergeTreeProjection('tallyhouse', 'events', 'p')",
        "SELECT * FROM mergeTreeIndex('tallyhouse_views', 'series_1h')",
        "SELECT * FROM merge('tallyhouse', '.*')",
        "SELECT * FROM loop(tallyhouse.events) LIMIT 1",
        "SELECT * FROM remote('127.0.0.1', tallyhouse.events)",
        "SELECT * FROM cluster('default', tallyhouse.events)",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
        "SELECT * FROM s3('http://127.0.0.1:1/x', 'CSV', 'a String')",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM filesystem('/etc')",
        "SELECT * FROM executable('cat /etc/passwd', 'LineAsString', 'a String')",
        "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT * FROM events))",
        "SELECT * FROM input('a String')",
        "SELECT * FROM dictionary('tallyhouse.events')",
        "SELECT * FROM system.processes",
        "SELECT * FROM system.parts",
        "SELECT * FROM system.query_log",
        "SELECT * FROM system.users",
        "SELECT * FROM system.row_policies",
        "SELECT * FROM system.disks",
        "SELECT * FROM system.metrics",
        "SELECT 1 INTO OUTFILE '/tmp/tallyhouse-escape-of-views'",
        "INSERT INTO tallyhouse_views.events (project_id) VALUES ('x')",
        "CREATE TEMPORARY TABLE t (a String)",
        "SELECT file('/etc/passwd')",
        "SELECT file('/etc/passwd', 'none')",
        "SELECT `file`('/etc/passwd')",
        "SELECT * APPLY(file) FROM (SELECT '/etc/passwd')",
        "SELECT arrayMap(file, ['/etc/passwd'])",
        "SELECT count() FROM events WHERE file('/etc/passwd') != ''",
        "SELECT a FROM values('p String, a String ALIAS file(p)', '/etc/passwd')",
        "SELECT formatRow('Template', 1)",
        "SELECT * FROM (SELECT formatRow('Template', 1) SETTINGS format_template_row = '/etc/passwd')",
    ] {
        for analyzer in ["1", "0"] {
            let seen = rows(&grafana, forbidden, &[("enable_analyzer", analyzer)]).await;
            let refused = seen.expect_err(forbidden);
            assert!(!refused.contains("root:"), "{forbidden}: {refused}");
        }
    }
    assert!(!std::path::Path::new("/tmp/tallyhouse-escape-of-views").exists());
}

#[tokio::test]
async fn settings_of_bi_tools_are_taken_and_limits_hold() {
    let grafana = support::engine().await.grafana();
    for taken in [
        // Grafana's datasource: its timeout and five seconds.
        ("max_execution_time", "65"),
        ("additional_table_filters", "{'tallyhouse_views.events': '1'}"),
        // JDBC, Cube, clickhouse-connect.
        ("async_insert", "0"),
        ("join_use_nulls", "1"),
        ("wait_end_of_query", "1"),
        ("send_progress_in_http_headers", "1"),
        ("http_headers_progress_interval_ms", "120000"),
        ("date_time_output_format", "iso"),
        ("date_time_input_format", "best_effort"),
        ("output_format_json_quote_64bit_integers", "1"),
        ("session_timezone", "Europe/Berlin"),
        ("max_block_size", "65409"),
        ("cancel_http_readonly_queries_on_client_close", "1"),
        ("max_result_rows", "1000"),
        ("allow_experimental_variant_type", "1"),
        ("enable_http_compression", "1"),
    ] {
        rows(&grafana, "SELECT 1", &[taken]).await.unwrap_or_else(|refused| panic!("{taken:?}: {refused}"));
    }
    for refused in [
        ("max_execution_time", "66"),
        ("max_execution_time", "0"),
        ("max_execution_time", "600"),
        ("max_memory_usage", "0"),
        ("max_rows_to_read", "0"),
        ("max_result_rows", "0"),
        ("max_result_bytes", "0"),
        ("max_threads", "1000"),
        ("result_overflow_mode", "break"),
        ("timeout_overflow_mode", "break"),
        ("readonly", "0"),
        ("use_query_condition_cache", "1"),
        ("log_queries", "1"),
    ] {
        let text = rows(&grafana, "SELECT 1", &[refused]).await.expect_err(refused.0);
        assert!(text.contains("Code: 452") || text.contains("Code: 164"), "{refused:?}: {text}");
    }
}

/// A filter that a user gives for the table behind a view would be asked with the rights of the view's definer, and what it asks could be read
/// from an error.
#[tokio::test]
async fn a_filter_for_a_table_behind_a_view_is_not_asked_with_the_views_rights() {
    let engine = support::engine().await;
    let grafana = engine.grafana();
    projects(&engine.writer()).await;
    for index in ["'tallyhouse', 'rollup_1m'", "'tallyhouse', 'events', with_minmax = true"] {
        let asked = format!(
            "throwIf(1, (SELECT toString(groupUniqArray(toString(tuple(*)))) FROM mergeTreeIndex({index}))) = 0"
        );
        let filter = asked.replace('\'', "\\'");
        for table in ["tallyhouse.events", "tallyhouse.rollup_1m", "events", "rollup_1m"] {
            for view in ["events", "series_1m"] {
                let filters = format!("{{'{table}': '{filter}'}}");
                let question = format!("SELECT count() FROM {view}");
                for (sql, settings) in [
                    (question.clone(), vec![("additional_table_filters", filters.as_str())]),
                    (format!("{question} SETTINGS additional_table_filters = {filters}"), vec![]),
                    (format!("SELECT * FROM ({question} SETTINGS additional_table_filters = {filters})"), vec![]),
                    (format!("SELECT * FROM ({question} SETTINGS additional_result_filter = '{filter}')"), vec![]),
                ] {
                    let told = rows(&grafana, &sql, &settings).await.unwrap_or_else(|refused| refused);
                    assert!(!told.contains(SECRET) && !told.contains("395"), "{sql}: {told}");
                }
            }
        }
    }
}

#[tokio::test]
async fn nobody_changes_what_reads_files_calls_servers_or_answers_any_site() {
    let engine = support::engine().await;
    for user in [engine.writer(), engine.reader(), engine.analyst(), engine.grafana()] {
        for pinned in [
            ("add_http_cors_header", "1"),
            ("http_response_headers", "{'Access-Control-Allow-Origin':'*'}"),
            ("format_schema", "/etc/passwd:Message"),
            ("format_schema_source", "string"),
            ("format_template_row", "/etc/passwd"),
            ("format_template_resultset", "/etc/passwd"),
            ("output_format_schema", "/tmp/tallyhouse-escape-of-views"),
            ("format_avro_schema_registry_url", "http://127.0.0.1:1/"),
            ("allow_experimental_ai_functions", "1"),
            ("send_logs_level", "trace"),
        ] {
            let text = rows(&user, "SELECT 1 AS a", &[pinned]).await.expect_err(pinned.0);
            assert!(text.contains("Code: 452") || text.contains("Code: 164"), "{} {pinned:?}: {text}", user.user);
        }
        // A subquery goes around constraints; what these are for is shut, too.
        let around = "SELECT * FROM (SELECT formatRow('Template', 1) SETTINGS format_template_row = '/etc/passwd')";
        let text = rows(&user, around, &[]).await.expect_err(around);
        assert!(!text.contains("root:"), "{}: {text}", user.user);
        let file = rows(&user, "SELECT file('/etc/passwd')", &[]).await.expect_err("file");
        assert!(file.contains("the function file is not available"), "{}: {file}", user.user);
    }
}

#[tokio::test]
async fn what_is_asked_stays_out_of_the_engines_logs() {
    let shared = support::shared().await;
    let engine = &shared.engine;
    let hidden = "zxstatementzx";
    for user in [engine.writer(), engine.reader(), engine.analyst(), engine.grafana()] {
        for sql in [
            format!("SELECT '{hidden}', toUInt64('{hidden}')"),
            format!("SELECT {hidden} FROM nowhere"),
            format!("SELECT '{hidden}"),
            format!("SELEC {hidden}"),
            format!("SELECT throwIf(1, '{hidden}')"),
            format!("SELECT * FROM file('{hidden}')"),
            format!("INSERT INTO nowhere VALUES ('{hidden}'"),
        ] {
            rows(&user, &sql, &[]).await.expect_err(&sql);
        }
    }
    let mut read = 0;
    for folder in ["clickhouse-log", "engine"] {
        for file in std::fs::read_dir(shared.options.data.join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
                assert!(!text.contains(hidden), "{}: {text}", path.display());
                read += 1;
            }
        }
    }
    assert!(read >= 2, "{read} logs");
}
