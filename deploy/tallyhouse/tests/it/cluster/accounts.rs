//! An account of a project on two shards joined with a secret: it sees its project's rows of both, merged, and nobody else's.

use sha2::{Digest, Sha256};
use tallyhouse::engine::Account;
use tallyhouse_sql::{Connection, hex};
use tallyhouse_testkit::{ShardEngines, insert_events, ten_days_ago};

const MINE: &str = "a-mine";
const OTHER: &str = "b-other";

fn account(name: &str, project: &str) -> Account {
    let password_sha256 = hex(&Sha256::digest(b"p")).parse().unwrap();
    Account { name: name.parse().unwrap(), project: project.parse().unwrap(), password_sha256 }
}

async fn text(connection: &Connection, sql: &str) -> Result<String, String> {
    let cursor = connection.server().query_raw(sql).fetch_bytes("TSV");
    let bytes = cursor.unwrap().collect().await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[tokio::test]
async fn an_account_sees_its_project_on_every_shard_and_no_other() {
    let accounts = [account("bi_mine", MINE), account("bi_other", OTHER)];
    let cluster = ShardEngines::with_accounts(2, &accounts).await;
    for number in [1, 2] {
        for project in [MINE, OTHER] {
            // The same three users on both.
            insert_events(&cluster.writer(number), project, ten_days_ago(), 24).await;
        }
    }
    for number in [1, 2] {
        let mine = cluster.as_user(number, "bi_mine", "p");
        sees_what_both_have(&mine).await;
        for trick in TRICKS {
            let sql = format!("SELECT groupUniqArray(project_id) FROM tallyhouse_views.{trick}");
            match text(&mine, &sql).await {
                Ok(seen) => assert!(seen.lines().all(|line| line == format!("['{MINE}']")), "{trick}: {seen}"),
                // A constraint, an unknown setting of that name, a plan instead of a statement (`process_query_plan_packet` is off).
                Err(refused) => assert!(
                    !refused.contains("seen it")
                        && ["452", "47", "344"].iter().any(|code| refused.contains(&format!("Code: {code}."))),
                    "{trick}: {refused}"
                ),
            }
        }
        for source in FORBIDDEN {
            let source = source.replace("{there}", &cluster.native(3 - number));
            let refused = text(&mine, &format!("SELECT count() FROM {source}")).await;
            // `merge` finds no table that may be read.
            let is_refused = |error: &String| error.contains("Code: 497") || error.contains("Code: 636");
            assert!(refused.as_ref().is_err_and(is_refused), "{source}: {refused:?}");
        }
        let other = cluster.as_user(number, "bi_other", "p");
        let seen = text(&other, "SELECT DISTINCT project_id FROM tallyhouse_views.events").await;
        assert_eq!(seen.unwrap(), OTHER);
        // Of what is behind the views, too.
        let behind = "SELECT groupUniqArray(project_id) FROM (SELECT project_id FROM tallyhouse_seen.rollup_1h \
                      UNION ALL SELECT project_id FROM tallyhouse_seen.all_rollup_1h UNION ALL SELECT project_id FROM tallyhouse_seen.events)";
        assert_eq!(text(&mine, behind).await.unwrap(), format!("['{MINE}']"));
    }
}

async fn sees_what_both_have(mine: &Connection) {
    let events = "SELECT count(), groupUniqArray(project_id) FROM tallyhouse_views.events";
    assert_eq!(text(mine, events).await.unwrap(), format!("144\t['{MINE}']"));
    for (view, rows) in [("series_1m", 48), ("series_1h", 24), ("series_1d", 1)] {
        let sql = format!(
            "SELECT count(), sum(events), max(users), min(value_min), max(value_max), groupUniqArray(project_id) \
             FROM tallyhouse_views.{view} WHERE dim_set = '' AND event_type = 'view'"
        );
        // A user of both shards is one, and a series has one row.
        let users = if view == "series_1m" { 1 } else { 2 };
        assert_eq!(text(mine, &sql).await.unwrap(), format!("{rows}\t96\t{users}\t20\t20\t['{MINE}']"), "{view}");
    }
    // Each shard is asked with the question's filter, and reads no row; else it would read all that the project has.
    for view in ["series_1m", "series_1h", "series_1d"] {
        let sql = format!(
            "SELECT sum(events) FROM tallyhouse_views.{view} WHERE dim_set = '' AND event_type = 'view' \
             AND bucket < toDateTime(0) SETTINGS max_rows_to_read = 1"
        );
        assert_eq!(text(mine, &sql).await.unwrap(), "0", "{view}");
    }
    let rows = "SELECT count() FROM (SELECT event_id FROM tallyhouse_views.events WHERE event_type = 'view')";
    assert_eq!(text(mine, rows).await.unwrap(), "96", "a subquery has no limit of rows");
}

/// What may be asked, and must not show more.
const TRICKS: [&str; 12] = [
    "events SETTINGS prefer_localhost_replica = 0",
    "events SETTINGS prefer_localhost_replica = 0, serialize_query_plan = 1",
    "events SETTINGS distributed_group_by_no_merge = 1",
    "events SETTINGS enable_analyzer = 0",
    "series_1h SETTINGS prefer_localhost_replica = 0, enable_analyzer = 0",
    "series_1d SETTINGS enable_parallel_replicas = 1, max_parallel_replicas = 2, prefer_localhost_replica = 0",
    "events SETTINGS prefer_localhost_replica = 0, additional_table_filters = {'tallyhouse.events': 'throwIf(project_id = ''b-other'', ''seen it'') = 0'}",
    "events SETTINGS additional_table_filters = {'tallyhouse_seen.events': 'throwIf(project_id = ''b-other'', ''seen it'') = 0'}",
    "events WHERE throwIf(project_id = 'b-other', 'seen it') = 0 SETTINGS prefer_localhost_replica = 0",
    "series_1h WHERE throwIf(project_id = 'b-other', 'seen it') = 0 SETTINGS prefer_localhost_replica = 0",
    "events WHERE project_id IN ('a-mine', 'b-other') AND event_id IN (SELECT event_id FROM tallyhouse_seen.events) SETTINGS distributed_product_mode = 'allow'",
    "events WHERE event_id GLOBAL IN (SELECT event_id FROM tallyhouse_views.events)",
];

/// What may not be asked at all, here or on the other shard.
const FORBIDDEN: [&str; 11] = [
    "tallyhouse.events",
    "tallyhouse.rollup_1h",
    "tallyhouse_all.events",
    "cluster('main', tallyhouse.events)",
    "cluster('main', tallyhouse_seen.events)",
    "clusterAllReplicas('main', tallyhouse.rollup_1h)",
    "remote('{there}', tallyhouse.events)",
    "remote('{there}', tallyhouse_seen.events)",
    "remote('{there}', 'tallyhouse', 'events', 'writer', 'dev')",
    "merge('tallyhouse', '^events$')",
    "mergeTreeIndex(tallyhouse, events)",
];
