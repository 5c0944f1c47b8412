-- Dashboards and BI tools on a given ClickHouse server (on each server of a cluster, followed by `dashboards.cluster.sql`): run as an administrator after `services.sql`, with a password of your own. The
-- same as `grafana` in deploy/tallyhouse/src/engine/templates/users.xml; there is said why. Accounts of one project are made by
-- `tallyhouse users create`, with these profiles.

CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_dashboards SETTINGS
    INHERIT tallyhouse_pinned, readonly = 2, max_execution_time = 30 MIN 1 MAX 65, timeout_overflow_mode = 'throw' CONST,
    max_memory_usage = 2000000000 MIN 1 MAX 2000000000, max_memory_usage_for_user = 4000000000 CONST,
    max_temporary_data_on_disk_size_for_query = 1000000000 CONST, max_concurrent_queries_for_user = 64 CONST,
    max_rows_to_read = 200000000 MIN 1 MAX 200000000, read_overflow_mode = 'throw' CONST,
    max_result_rows = 200000 MIN 1 MAX 200000, max_result_bytes = 104857600 MIN 1 MAX 104857600,
    result_overflow_mode = 'throw' CONST, max_query_size = 262144 MAX 262144, max_threads MAX 16,
    use_query_cache = 0 CONST, use_query_condition_cache = 0 CONST, log_queries = 0 CONST,
    cancel_http_readonly_queries_on_client_close = 1;

-- dbt, in a database of its own: for longer, and it changes tables. Where they are stored is not its choice: with a disk of its own making it
-- could read other tables' parts. What is nested deeper than the server reads at its start would keep it from starting.
CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_dbt SETTINGS
    INHERIT tallyhouse_dashboards, readonly = 0, max_execution_time = 600 MIN 1 MAX 600, max_parser_depth = 1000 CONST,
    merge_tree_disk = '' CONST, merge_tree_table_disk = 0 CONST, merge_tree_storage_policy = 'default' CONST;

CREATE USER IF NOT EXISTS grafana IDENTIFIED WITH sha256_password BY 'change me' DEFAULT DATABASE tallyhouse_views
    SETTINGS PROFILE 'tallyhouse_dashboards';

GRANT SELECT ON tallyhouse_views.* TO grafana;

-- `currentUser()` is who asks, also where a view runs as `definer`. Edit the projects.
CREATE ROW POLICY IF NOT EXISTS tallyhouse_grafana ON tallyhouse.events, tallyhouse.rollup_1m, tallyhouse.rollup_1h, tallyhouse.rollup_1d
    USING currentUser() = 'grafana' AND project_id IN ('my-project') TO definer;
