-- As before, and once more under every type of event: `event_type` is empty there, and `*` stands before `dim_set`. A
-- question that names no type merges one state instead of one of each type (measured in sql/README.md).
-- The second step merges what the first has counted, so that an event is looked at once.
CREATE MATERIALIZED VIEW IF NOT EXISTS tallyhouse.rollup_1d_view {{on_cluster}}
TO tallyhouse.rollup_1d{{local}}
AS SELECT
    project_id,
    under.1 AS event_type,
    under.2 AS dim_set,
    dim_value,
    bucket,
    sum(counted) AS events,
    uniqCombined64MergeState(14)(seen) AS users,
    sum(valued) AS value_count,
    sum(added) AS value_sum,
    min(least) AS value_min,
    max(greatest) AS value_max,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(spread) AS value_quantiles
FROM
(
    SELECT
        project_id,
        event_type AS type,
        dim.1 AS set,
        dim.2 AS dim_value,
        toStartOfDay(toDateTime(ts, 'UTC')) AS bucket,
        count() AS counted,
        uniqCombined64StateIf(14)(user_hash, user_hash != 0) AS seen,
        count(value) AS valued,
        sum(ifNull(value, 0)) AS added,
        min(ifNull(value, inf)) AS least,
        max(ifNull(value, -inf)) AS greatest,
        quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(ifNull(value, 0), isNotNull(value)) AS spread
    FROM tallyhouse.events_in
    ARRAY JOIN arrayPushFront(dims, ('', '')) AS dim
    GROUP BY project_id, type, set, dim_value, bucket
)
ARRAY JOIN [(type, set), ('', concat('*', set))] AS under
GROUP BY project_id, event_type, dim_set, dim_value, bucket
