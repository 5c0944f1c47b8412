-- Counts every event once under the total and once under each of its (dim_set, dim_value) pairs.
-- An absent value is +-inf for min and max: 0 would be a lie, and minOrDefault would make the column Nullable.
-- The total is counted once more under every type: `*` stands before `dim_set`, `event_type` is empty. A chart of all types reads one
-- row a minute instead of one of each type. Not by dimensions: a row more for each pair of an event costs more than it saves
-- (sql/README.md).
CREATE MATERIALIZED VIEW IF NOT EXISTS tallyhouse.rollup_1m_view
TO tallyhouse.rollup_1m
AS SELECT
    project_id,
    if(dim.1 = '*', '', e.event_type) AS event_type,
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
FROM tallyhouse.events_in AS e
ARRAY JOIN arrayConcat([('', ''), ('*', '')], dims) AS dim
GROUP BY project_id, event_type, dim_set, dim_value, bucket
