-- Counts every event once under the total and once under each of its (dim_set, dim_value) pairs.
-- An absent value is +-inf for min and max: 0 would be a lie, and minOrDefault would make the column Nullable.
CREATE MATERIALIZED VIEW IF NOT EXISTS tallyhouse.rollup_1m_view {{on_cluster}}
TO tallyhouse.rollup_1m{{local}}
AS SELECT
    project_id,
    event_type,
    dim.1 AS dim_set,
    dim.2 AS dim_value,
    toStartOfMinute(toDateTime(ts, 'UTC')) AS bucket,
    count() AS events,
    uniqCombined64StateIf(12)(user_hash, user_hash != 0) AS users,
    count(value) AS value_count,
    sum(ifNull(value, 0)) AS value_sum,
    min(ifNull(value, inf)) AS value_min,
    max(ifNull(value, -inf)) AS value_max,
    quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(ifNull(value, 0), isNotNull(value)) AS value_quantiles
FROM tallyhouse.events_in
ARRAY JOIN arrayPushFront(dims, ('', '')) AS dim
GROUP BY project_id, event_type, dim_set, dim_value, bucket
