-- Analysts' SQL on a cluster. A shard does not see the header of the request, but, where `remote_servers` has a `secret`, who
-- asked: so there is a user for each project, and the policies compare with its name. Run on every server as an administrator, after
-- `cluster.sql`; then the CREATE USER and GRANT at the end for each project, all with one password. The query API is given
-- CLICKHOUSE_ANALYST_USER=analyst_{project} and CLICKHOUSE_ANALYST_PASSWORD.

CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_analyst SETTINGS
    log_queries = 0 CONST, add_http_cors_header = 0 CONST, readonly = 1, allow_ddl = 0, allow_introspection_functions = 0,
    max_execution_time = 30, timeout_overflow_mode = 'throw', max_memory_usage = 2000000000,
    max_rows_to_read = 1000000000, max_bytes_to_read = 100000000000, read_overflow_mode = 'throw',
    max_result_rows = 1000000, max_result_bytes = 104857600, result_overflow_mode = 'throw',
    max_memory_usage_for_user = 4000000000, max_temporary_data_on_disk_size_for_query = 1000000000,
    max_query_size = 16384, max_concurrent_queries_for_user = 16, cancel_http_readonly_queries_on_client_close = 1,
    priority = 3, low_priority_query_wait_time_ms = 50, os_thread_priority = 10, max_threads = 1,
    use_query_cache = 0, use_query_condition_cache = 0, distributed_product_mode = 'global',
    output_format_json_quote_64bit_integers = 0 CHANGEABLE_IN_READONLY, output_format_json_quote_denormals = 0,
    format_csv_null_representation = '';

CREATE ROLE IF NOT EXISTS tallyhouse_analyst SETTINGS PROFILE 'tallyhouse_analyst';

GRANT SELECT ON tallyhouse.events TO tallyhouse_analyst;
GRANT SELECT ON tallyhouse.rollup_1m TO tallyhouse_analyst;
GRANT SELECT ON tallyhouse.rollup_1h TO tallyhouse_analyst;
GRANT SELECT ON tallyhouse.rollup_1d TO tallyhouse_analyst;
GRANT SELECT ON tallyhouse_all.events TO tallyhouse_analyst;
GRANT SELECT ON tallyhouse_all.rollup_1m TO tallyhouse_analyst;
GRANT SELECT ON tallyhouse_all.rollup_1h TO tallyhouse_analyst;
GRANT SELECT ON tallyhouse_all.rollup_1d TO tallyhouse_analyst;

-- `analyst_` has eight letters.
CREATE ROW POLICY IF NOT EXISTS tallyhouse_analyst
    ON tallyhouse.events, tallyhouse.rollup_1m, tallyhouse.rollup_1h, tallyhouse.rollup_1d
    USING project_id = nullIf(substring(currentUser(), 9), '') TO tallyhouse_analyst;

-- The query API stops a statement that nobody waits for as the user that runs it: each sees its own project's.
GRANT SELECT ON system.processes TO tallyhouse_analyst;
CREATE ROW POLICY IF NOT EXISTS tallyhouse_analyst_stop ON system.processes
    USING user = currentUser() TO tallyhouse_analyst;

CREATE QUOTA IF NOT EXISTS tallyhouse_analyst KEYED BY client_key
    FOR INTERVAL 1 hour MAX queries = 1000, read_rows = 50000000000 TO tallyhouse_analyst;

CREATE USER IF NOT EXISTS `analyst_PROJECT` IDENTIFIED WITH sha256_password BY 'change me'
    DEFAULT ROLE tallyhouse_analyst SETTINGS PROFILE 'tallyhouse_analyst';

GRANT tallyhouse_analyst TO `analyst_PROJECT`;
