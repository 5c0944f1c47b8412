-- As 0023, and once more by quarters of an hour: `:` stands before `dim_set`, and `bucket` is a quarter. The clocks of every time
-- zone are whole quarters ahead of UTC, so that its hours, days, weeks and months have their borders there for as long as hours
-- are kept. In this table and not in one of their own, because this one knows which inserts it has: one that is repeated after this
-- file is counted in no row again. The price is in sql/README.md.
-- The first step counts quarters, the second merges them into hours.
CREATE MATERIALIZED VIEW IF NOT EXISTS tallyhouse.rollup_1h_view {{on_cluster}}
TO tallyhouse.rollup_1h{{local}}
AS SELECT
    project_id,
    under.1 AS event_type,
    under.2 AS dim_set,
    dim_value,
    under.3 AS bucket,
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
        toStartOfFifteenMinutes(toDateTime(ts, 'UTC')) AS quarter,
        count() AS counted,
        uniqCombined64StateIf(14)(user_hash, user_hash != 0) AS seen,
        count(value) AS valued,
        sum(ifNull(value, 0)) AS added,
        min(ifNull(value, inf)) AS least,
        max(ifNull(value, -inf)) AS greatest,
        quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(ifNull(value, 0), isNotNull(value)) AS spread
    FROM tallyhouse.events_in
    ARRAY JOIN arrayPushFront(dims, ('', '')) AS dim
    GROUP BY project_id, type, set, dim_value, quarter
)
ARRAY JOIN [(type, set, toStartOfHour(quarter)), ('', concat('*', set), toStartOfHour(quarter)), (type, concat(':', set), quarter)] AS under
GROUP BY project_id, event_type, dim_set, dim_value, bucket
