//! Statements that are made up, for `POST /v1/sql` and for people's accounts.

use super::requests::Dice;

const COLUMNS: &[&str] = &[
    "*",
    "count()",
    "groupUniqArray(user_id)",
    "user_id, event_id",
    "props, num_props",
    "project_id, count()",
    "max(value), min(user_id)",
    "arrayStringConcat(groupArray(toString(tuple(*))))",
    "hex(user_id)",
    "reverse(user_id)",
    "topK(5)(project_id)",
    "any(props)",
    "sum(value), quantile(0.5)(value)",
    "toUInt8(user_id)",
    "throwIf(project_id = 'iso-b', concat('x', user_id))",
    "CAST(user_id AS Date)",
    "user_id, project_id, event_type, ts",
    "(SELECT groupArray(user_id) FROM {t} WHERE project_id = 'iso-b')",
    "dictGet('tallyhouse.d', 'a', 1)",
    "length(user_id), user_hash",
    "formatRow('CSV', user_id)",
    "file('/etc/passwd')",
    "argMax(user_id, ts)",
    "uniqExact(project_id)",
    "getSetting('max_threads')",
    "currentUser(), hostName()",
    "groupArray((project_id, country))",
];

const WHERES: &[&str] = &[
    "1",
    "project_id = 'iso-b'",
    "project_id != ''",
    "1 OR project_id = 'iso-b'",
    "NOT project_id LIKE 'iso-a%'",
    "event_type IN ('purchase', 'theirs')",
    "user_id IN (SELECT user_id FROM {t} WHERE project_id = 'iso-b')",
    "project_id IN (SELECT DISTINCT project_id FROM {t})",
    "throwIf(project_id = 'iso-b', 'found it') = 0",
    "toUInt64(user_id) = 1",
    "has(mapValues(props), 'theirs')",
    "country = 'DE'",
    "event_id = 'theirs-1'",
    "value > 900000000",
    "project_id = {project:String}",
    "ts > now() - INTERVAL 30 DAY",
];

const TAILS: &[&str] = &[
    "",
    "LIMIT 50",
    "GROUP BY ALL WITH TOTALS",
    "ORDER BY ts LIMIT 20",
    "SETTINGS additional_table_filters = {'{t}': '1'}",
    "SETTINGS readonly = 0",
    "SETTINGS max_threads = 1",
    "SETTINGS additional_result_filter = '1'",
    "LIMIT 10 UNION ALL SELECT user_id FROM {t}",
    "FORMAT JSON",
    "INTO OUTFILE '/tmp/x'",
    "SETTINGS enable_analyzer = 0",
    "SETTINGS use_query_cache = 1",
    "; SELECT 1",
];

const JOINS: &[&str] = &[
    "",
    "",
    "",
    " AS a JOIN {t} AS b ON a.event_id = b.event_id",
    " AS a CROSS JOIN {t} AS b",
    " AS a LEFT JOIN (SELECT * FROM {t} WHERE project_id = 'iso-b') AS b USING (event_type)",
    " AS a FULL JOIN {t} AS b ON a.project_id != b.project_id",
    " FINAL",
    " SAMPLE 1",
    " PREWHERE project_id = 'iso-b'",
];

const SYSTEM: &[&str] = &[
    "SELECT * FROM system.tables",
    "SELECT * FROM system.columns LIMIT 500",
    "SELECT * FROM system.processes",
    "SELECT * FROM system.parts",
    "SELECT * FROM system.query_log",
    "SELECT * FROM system.users",
    "SELECT * FROM system.row_policies",
    "SELECT * FROM system.grants",
    "SELECT * FROM system.quotas_usage",
    "SELECT * FROM system.errors",
    "SELECT * FROM system.view_refreshes",
    "SELECT * FROM system.mutations",
    "SELECT * FROM system.parts_columns",
    "SELECT * FROM system.dropped_tables",
    "SHOW TABLES",
    "SHOW DATABASES",
    "SHOW GRANTS",
    "SHOW PROCESSLIST",
    "SHOW CREATE TABLE tallyhouse.events",
    "SHOW CREATE TABLE tallyhouse_views.events",
    "SHOW ACCESS",
    "SHOW USERS",
    "SHOW POLICIES",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM tallyhouse.dead_letters",
    "SELECT * FROM tallyhouse.control",
    "SELECT * FROM tallyhouse.audit",
    "SELECT * FROM tallyhouse.key_use",
    "SELECT * FROM tallyhouse.hot_questions",
    "SELECT * FROM tallyhouse.repairs",
    "SELECT * FROM tallyhouse.migrations",
    "SELECT * FROM mergeTreeIndex('tallyhouse', 'events', with_minmax = true)",
    "SELECT * FROM mergeTreeIndex('tallyhouse', 'rollup_1h')",
    "SELECT * FROM merge('tallyhouse', '.*')",
    "SELECT * FROM remote('127.0.0.1', tallyhouse.events)",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT * FROM {t}))",
    "EXPLAIN indexes = 1 SELECT * FROM {t} WHERE project_id = 'iso-b'",
    "EXPLAIN ESTIMATE SELECT * FROM {t}",
    "EXPLAIN PIPELINE SELECT * FROM {t}",
    "DESCRIBE TABLE {t}",
    "EXISTS TABLE tallyhouse.control",
    "CHECK TABLE tallyhouse.events",
    "KILL QUERY WHERE 1",
    "SELECT * FROM loop({t}) LIMIT 100",
    "CREATE TEMPORARY TABLE x AS SELECT * FROM tallyhouse.events",
    "INSERT INTO tallyhouse.events_in (project_id) SELECT 'x'",
    "SELECT * FROM system.settings WHERE changed",
];

const TABLES: &[&str] =
    &["tallyhouse.events", "tallyhouse.events", "tallyhouse.rollup_1h", "tallyhouse.rollup_1d", "tallyhouse.rollup_1m"];
const VIEWS: &[&str] = &[
    "tallyhouse_views.events",
    "tallyhouse_views.events",
    "tallyhouse_views.series_1h",
    "tallyhouse_views.series_1d",
    "series_1m",
];
const OF_SERIES: &[&str] = &[
    "*",
    "project_id, event_type, dim_value",
    "groupUniqArray(dim_value)",
    "count()",
    "groupUniqArray(project_id)",
    "dim_set, dim_value, events",
    "max(dim_value)",
    "throwIf(dim_value != 'DE', dim_value)",
    "toUInt8(dim_value)",
    "hex(dim_value)",
];
const OF_SERIES_WHERE: &[&str] = &[
    "1",
    "project_id = 'iso-b'",
    "dim_set = 'country'",
    "dim_set = '' AND event_type = 'purchase'",
    "1 OR project_id != ''",
    "dim_value != ''",
    "event_type = 'theirs'",
];

pub fn of_tables(dice: &mut Dice) -> String {
    statement(dice, TABLES)
}

pub fn of_views(dice: &mut Dice) -> String {
    statement(dice, VIEWS)
}

fn statement(dice: &mut Dice, tables: &[&str]) -> String {
    let table = dice.pick(tables);
    let is_events = table.ends_with("events");
    let text = if dice.below(4) == 0 {
        dice.pick(SYSTEM).to_owned()
    } else if is_events {
        let (columns, condition) = (dice.pick(COLUMNS), dice.pick(WHERES));
        format!("SELECT {columns} FROM {{t}}{} WHERE {condition} {}", dice.pick(JOINS), dice.pick(TAILS))
    } else {
        let (columns, condition) = (dice.pick(OF_SERIES), dice.pick(OF_SERIES_WHERE));
        format!(
            "SELECT {columns} FROM {{t}} WHERE {condition} {}",
            dice.pick(&["", "LIMIT 100", "GROUP BY ALL", "ORDER BY bucket LIMIT 10"])
        )
    };
    let text = if dice.below(6) == 0 { format!("WITH x AS ({text}) SELECT * FROM x") } else { text };
    text.replace("{t}", table)
}
