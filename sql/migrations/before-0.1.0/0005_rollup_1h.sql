-- One row per hour. A partition is a month: the unit in which a rollup is rebuilt.
-- `users` is uniqCombined64(14) and `value_quantiles` DDSketch at 1 %: measured in sql/README.md.
CREATE TABLE IF NOT EXISTS tallyhouse.rollup_1h{{local}} {{on_cluster}}
(
    project_id      LowCardinality(String),
    event_type      LowCardinality(String),
    dim_set         LowCardinality(String) COMMENT 'names in alphabetical order, comma between; empty for the total',
    dim_value       String COMMENT 'their values in that order, \\x1f between',
    bucket          DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    events          SimpleAggregateFunction(sum, UInt64),
    users           AggregateFunction(uniqCombined64(14), UInt64),
    value_count     SimpleAggregateFunction(sum, UInt64),
    value_sum       SimpleAggregateFunction(sum, Float64),
    value_min       SimpleAggregateFunction(min, Float64) COMMENT '+inf when no event had a value',
    value_max       SimpleAggregateFunction(max, Float64) COMMENT '-inf when no event had a value',
    value_quantiles AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Float64)
)
ENGINE = {{replicated}}AggregatingMergeTree
PARTITION BY toStartOfMonth(bucket)
ORDER BY (project_id, event_type, dim_set, dim_value, bucket)
TTL bucket + toIntervalDay(1826) DELETE
SETTINGS {{dedup_window}}, ttl_only_drop_parts = 1
