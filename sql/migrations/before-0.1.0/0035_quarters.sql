-- What raw events hold of the time before 0031, by quarters of an hour. One block after another in one order, under a token: what
-- an interrupted run has inserted is not inserted again. The newest first: what expires until it is run again is at the end.
INSERT INTO tallyhouse.rollup_1h
    (project_id, event_type, dim_set, dim_value, bucket, events, users, value_count, value_sum, value_min, value_max, value_quantiles)
SELECT
    project_id,
    event_type,
    concat(':', dim.1) AS set,
    dim.2 AS value_of_set,
    toStartOfFifteenMinutes(toDateTime(ts, 'UTC')) AS quarter,
    count(),
    uniqCombined64StateIf(14)(user_hash, user_hash != 0),
    count(value),
    sum(ifNull(value, 0)),
    min(ifNull(value, inf)),
    max(ifNull(value, -inf)),
    quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(ifNull(value, 0), isNotNull(value))
FROM tallyhouse.events FINAL
ARRAY JOIN arrayPushFront(dims, ('', '')) AS dim
GROUP BY project_id, event_type, set, value_of_set, quarter
ORDER BY quarter DESC, project_id, event_type, set, value_of_set
SETTINGS
    insert_deduplication_token = '0035_quarters',
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
