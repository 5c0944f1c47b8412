-- The users of Tallyhouse on one given ClickHouse server: run as an administrator, with passwords of your own, before `tallyhouse migrate
-- up`. Give the writer's to `ingest` and to commands (CLICKHOUSE_PASSWORD) and to the query API (CLICKHOUSE_WRITER_PASSWORD, with
-- CLICKHOUSE_WRITER_USER=writer), the reader's to the query API (CLICKHOUSE_PASSWORD). The same as `writer` and `reader` in
-- deploy/tallyhouse/src/engine/templates/users.xml; there is said why.

CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_writer SETTINGS
    async_insert = 0, wait_for_async_insert = 1, deduplicate_insert = 'enable',
    deduplicate_blocks_in_dependent_materialized_views = 1, deduplicate_insert_select = 'disable',
    max_insert_block_size = 1048449, max_insert_block_size_bytes = 0,
    min_insert_block_size_rows = 1048449, min_insert_block_size_bytes = 268435456,
    max_partitions_per_insert_block = 424, optimize_on_insert = 0, parallel_view_processing = 1,
    max_execution_time = 600;

CREATE USER IF NOT EXISTS writer IDENTIFIED WITH sha256_password BY 'change me' SETTINGS PROFILE 'tallyhouse_writer';

GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, SHOW ON tallyhouse.* TO writer;
GRANT SELECT ON system.* TO writer;
GRANT TABLE ENGINE ON MergeTree TO writer;
GRANT TABLE ENGINE ON AggregatingMergeTree TO writer;
GRANT TABLE ENGINE ON ReplacingMergeTree TO writer;
GRANT TABLE ENGINE ON Null TO writer;

CREATE SETTINGS PROFILE IF NOT EXISTS tallyhouse_reader SETTINGS
    readonly = 2, timeout_overflow_mode = 'throw' CONST, result_overflow_mode = 'throw' CONST, max_query_size = 262144,
    max_execution_time = 30 MIN 1 MAX 600, max_memory_usage = 4000000000 MIN 1 MAX 4000000000,
    max_rows_to_read = 1000000000 MIN 1 MAX 1000000000, max_result_rows = 1000000 MIN 1 MAX 100000000,
    max_result_bytes = 104857600 MIN 1 MAX 100000000000, cancel_http_readonly_queries_on_client_close = 1;

CREATE USER IF NOT EXISTS reader IDENTIFIED WITH sha256_password BY 'change me' SETTINGS PROFILE 'tallyhouse_reader';

GRANT SELECT ON tallyhouse.* TO reader;
GRANT SELECT ON system.processes TO reader;
