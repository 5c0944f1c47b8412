-- Analysts' SQL on one given ClickHouse server: run as an administrator after `services.sql`, with a password of your own, and give it to the
-- query API as CLICKHOUSE_ANALYST_PASSWORD. The same as `analyst` in deploy/tallyhouse/src/engine/templates/users.xml.
--
-- The server must have `users_without_row_policies_can_read_rows` on (else give the other users policies), and
-- `select_from_system_db_requires_grant` and `select_from_information_schema_requires_grant` on. Nothing may lie in
-- `user_files_path`: the function `file` reads there without a grant. `max_concurrent_queries_for_user` is for three instances of the
-- query API: for each QUERY_CONCURRENCY_ADHOC, 16 answers that are being read, and a few that are ending.

CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_analyst SETTINGS
    INHERIT tallyhouse_pinned, log_queries = 0 CONST, readonly = 1, allow_ddl = 0, allow_get_client_http_header = 1,
    max_execution_time = 30, timeout_overflow_mode = 'throw', max_memory_usage = 2000000000,
    max_rows_to_read = 1000000000, max_bytes_to_read = 100000000000, read_overflow_mode = 'throw',
    max_result_rows = 1000000, max_result_bytes = 104857600, result_overflow_mode = 'throw',
    max_memory_usage_for_user = 4000000000, max_temporary_data_on_disk_size_for_query = 1000000000,
    max_query_size = 16384, max_concurrent_queries_for_user = 64, cancel_http_readonly_queries_on_client_close = 1,
    priority = 3, low_priority_query_wait_time_ms = 50, os_thread_priority = 10, max_threads = 1,
    use_query_cache = 0, use_query_condition_cache = 0,
    output_format_json_quote_64bit_integers = 0 CHANGEABLE_IN_READONLY, output_format_json_quote_denormals = 0,
    format_csv_null_representation = '';

CREATE USER IF NOT EXISTS analyst IDENTIFIED WITH sha256_password BY 'change me' SETTINGS PROFILE 'tallyhouse_analyst';

GRANT SELECT ON tallyhouse.events TO analyst;
GRANT SELECT ON tallyhouse.rollup_1m TO analyst;
GRANT SELECT ON tallyhouse.rollup_1h TO analyst;
GRANT SELECT ON tallyhouse.rollup_1d TO analyst;

CREATE ROW POLICY IF NOT EXISTS tallyhouse_analyst ON tallyhouse.events, tallyhouse.rollup_1m, tallyhouse.rollup_1h, tallyhouse.rollup_1d
    USING project_id = nullIf(getClientHTTPHeader('X-Tallyhouse-Project'), '') TO analyst;

-- The query API stops a statement that nobody waits for as the user that runs it, and names it in a header.
GRANT SELECT ON system.processes TO analyst;
CREATE ROW POLICY IF NOT EXISTS tallyhouse_analyst_stop ON system.processes
    USING query_id = nullIf(getClientHTTPHeader('X-Tallyhouse-Stop'), '') TO analyst;

CREATE QUOTA IF NOT EXISTS tallyhouse_analyst KEYED BY client_key
    FOR INTERVAL 1 hour MAX queries = 1000, read_rows = 50000000000 TO analyst;
