-- When each key was last used, by any process. Written at most once a minute by each process; the newest row of a key counts.
CREATE TABLE IF NOT EXISTS tallyhouse.key_use
(
    project_id  LowCardinality(String),
    key_id      String,
    used_at     DateTime64(3, 'UTC')
)
ENGINE = {{replicated}}ReplacingMergeTree(used_at)
ORDER BY (project_id, key_id)
TTL toDateTime(used_at) + toIntervalDay(400) DELETE
SETTINGS {{dedup_window}}
