-- The rows of every type, of what was counted before 0020. One block after another in one order, under a token: what an
-- interrupted run has inserted is not inserted again.
INSERT INTO tallyhouse.rollup_1h
    (project_id, event_type, dim_set, dim_value, bucket, events, users, value_count, value_sum, value_min, value_max, value_quantiles)
SELECT
    project_id,
    '' AS type,
    concat('*', dim_set) AS set,
    dim_value,
    bucket,
    sum(t.events),
    uniqCombined64MergeState(14)(t.users),
    sum(t.value_count),
    sum(t.value_sum),
    min(t.value_min),
    max(t.value_max),
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(t.value_quantiles)
FROM tallyhouse.rollup_1h AS t
WHERE event_type != ''
GROUP BY project_id, set, dim_value, bucket
ORDER BY project_id, set, dim_value, bucket
SETTINGS
    insert_deduplication_token = '0026_rollup_1h_every_type',
    insert_deduplicate = 1,
    deduplicate_insert = 'enable',
    deduplicate_insert_select = 'force_enable',
    async_insert = 0,
    max_insert_threads = 1,
    max_block_size = 20000,
    min_insert_block_size_rows = 20000,
    min_insert_block_size_bytes = 0,
    max_partitions_per_insert_block = 0,
    distributed_foreground_insert = 1,
    max_bytes_before_external_group_by = 500000000,
    max_bytes_before_external_sort = 500000000
