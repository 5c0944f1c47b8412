-- The users of Tallyhouse on one given ClickHouse server: run as an administrator, with passwords of your own, before `tallyhouse migrate
-- up`. Give the writer's to `ingest` and to commands (CLICKHOUSE_PASSWORD) and to the query API (CLICKHOUSE_WRITER_PASSWORD, with
-- CLICKHOUSE_WRITER_USER=writer), the reader's to the query API (CLICKHOUSE_PASSWORD). The same as `writer` and `reader` in
-- deploy/tallyhouse/src/engine/templates/users.xml; there is said why.

-- Nobody changes what reads or writes files, calls other servers, or answers the pages of any site.
CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_pinned SETTINGS
    add_http_cors_header = 0 CONST, http_response_headers = '{}' CONST, format_schema = '' CONST, format_schema_source = 'file' CONST,
    format_template_row = '' CONST, format_template_resultset = '' CONST, output_format_schema = '' CONST,
    input_format_record_errors_file_path = '' CONST, rename_files_after_processing = '' CONST,
    format_avro_schema_registry_url = '' CONST, cluster_for_parallel_replicas = '' CONST,
    allow_experimental_ai_functions = 0 CONST, allow_introspection_functions = 0 CONST, send_logs_level = 'fatal' CONST,
    query_cache_share_between_users = 0 CONST, log_processors_profiles = 0 CONST;

CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_writer SETTINGS
    INHERIT tallyhouse_pinned,
    async_insert = 0, wait_for_async_insert = 1, deduplicate_insert = 'enable',
    deduplicate_blocks_in_dependent_materialized_views = 1, deduplicate_insert_select = 'disable',
    max_insert_block_size = 1048449, max_insert_block_size_bytes = 0,
    min_insert_block_size_rows = 1048449, min_insert_block_size_bytes = 268435456,
    max_partitions_per_insert_block = 424, optimize_on_insert = 0, parallel_view_processing = 1,
    max_execution_time = 600;

CREATE USER IF NOT EXISTS writer IDENTIFIED WITH sha256_password BY 'change me' SETTINGS PROFILE 'tallyhouse_writer';

GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, SHOW ON tallyhouse.* TO writer;
GRANT SELECT, CREATE, DROP, SHOW ON tallyhouse_views.* TO writer;
GRANT BACKUP ON tallyhouse.* TO writer;
GRANT BACKUP ON tallyhouse_views.* TO writer;
GRANT SELECT ON system.* TO writer;
GRANT TABLE ENGINE ON MergeTree TO writer;
GRANT TABLE ENGINE ON AggregatingMergeTree TO writer;
GRANT TABLE ENGINE ON ReplacingMergeTree TO writer;
GRANT TABLE ENGINE ON Null TO writer;

CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_reader SETTINGS
    INHERIT tallyhouse_pinned,
    readonly = 2, timeout_overflow_mode = 'throw' CONST, result_overflow_mode = 'throw' CONST, max_query_size = 262144,
    max_execution_time = 30 MIN 1 MAX 600, max_memory_usage = 4000000000 MIN 1 MAX 4000000000,
    max_rows_to_read = 1000000000 MIN 1 MAX 1000000000, max_result_rows = 1000000 MIN 1 MAX 100000000,
    max_result_bytes = 104857600 MIN 1 MAX 100000000000, cancel_http_readonly_queries_on_client_close = 1;

CREATE USER IF NOT EXISTS reader IDENTIFIED WITH sha256_password BY 'change me' SETTINGS PROFILE 'tallyhouse_reader';

GRANT SELECT ON tallyhouse.* TO reader;
GRANT SELECT ON system.processes TO reader;

-- As whom the views run that dashboards read; nobody comes in as this user. It sees nothing until `dashboards.sql` says who sees what.
-- A view runs with the settings of whoever asks as far as these constraints let them pass: a filter for a table behind it would be asked
-- with the rights of `definer`.
CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_definer SETTINGS
    INHERIT tallyhouse_pinned, additional_table_filters = '{}' CONST, additional_result_filter = '' CONST, parallel_replicas_custom_key = '' CONST;

CREATE USER IF NOT EXISTS definer HOST NONE SETTINGS PROFILE 'tallyhouse_definer';

GRANT SELECT ON tallyhouse.events TO definer;
GRANT SELECT ON tallyhouse.rollup_1m TO definer;
GRANT SELECT ON tallyhouse.rollup_1h TO definer;
GRANT SELECT ON tallyhouse.rollup_1d TO definer;
GRANT SET DEFINER ON definer TO writer;

CREATE ROW POLICY IF NOT EXISTS tallyhouse_nothing ON tallyhouse.events, tallyhouse.rollup_1m, tallyhouse.rollup_1h, tallyhouse.rollup_1d
    USING 0 TO definer;
