-- Of this shard, with its states: what several shards have of a series is merged above.
CREATE VIEW IF NOT EXISTS tallyhouse_seen.rollup_1d
DEFINER = definer SQL SECURITY DEFINER
AS SELECT
    project_id,
    event_type,
    dim_set,
    dim_value,
    bucket,
    events,
    users,
    value_count,
    value_sum,
    value_min,
    value_max,
    value_quantiles
FROM tallyhouse.rollup_1d
