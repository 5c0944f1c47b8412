-- One row per hour and series, the states of all shards merged: as 0122. It runs as whoever asks.
CREATE VIEW IF NOT EXISTS tallyhouse_views.series_1h
SQL SECURITY INVOKER
AS WITH arrayMap(
    q -> multiIf(abs(q) > 1.02, q, abs(q) > 1.005, q / 1.01, q * 99 / 101),
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(r.value_quantiles)) AS mended
SELECT
    r.project_id AS project_id,
    r.event_type AS event_type,
    r.dim_set AS dim_set,
    r.dim_value AS dim_value,
    r.bucket AS bucket,
    sum(r.events) AS events,
    uniqCombined64Merge(14)(r.users) AS users,
    sum(r.value_count) AS value_count,
    sum(r.value_sum) AS value_sum,
    if(sum(r.value_count) = 0, NULL, toFloat64(min(r.value_min))) AS value_min,
    if(sum(r.value_count) = 0, NULL, toFloat64(max(r.value_max))) AS value_max,
    if(sum(r.value_count) = 0, NULL, sum(r.value_sum) / sum(r.value_count)) AS value_avg,
    if(sum(r.value_count) = 0, NULL, mended[1]) AS value_p50,
    if(sum(r.value_count) = 0, NULL, mended[2]) AS value_p95,
    if(sum(r.value_count) = 0, NULL, mended[3]) AS value_p99
FROM (SELECT * FROM tallyhouse_seen.all_rollup_1h) AS r
WHERE NOT startsWith(r.dim_set, ':')
GROUP BY project_id, event_type, dim_set, dim_value, bucket
