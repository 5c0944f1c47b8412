-- Days whose rollups may hold events that were refused in the end: an attempt that is refused by one view may have been taken by
-- another. Each row is a batch and a day of a project. It is inserted once more, newer, with each step: `pending` while the batch is
-- not stored, `open` from then on, `running` right before rollups are compared with raw and rebuilt, `done`.
CREATE TABLE IF NOT EXISTS tallyhouse.repairs {{on_cluster}}
(
    project_id LowCardinality(String),
    day        Int32 COMMENT 'days since 1970, UTC',
    token      String COMMENT 'of the batch',
    state      LowCardinality(String) COMMENT 'pending, open, running or done',
    updated_at DateTime64(3, 'UTC')
)
ENGINE = {{replicated}}ReplacingMergeTree(updated_at)
ORDER BY (project_id, day, token)
TTL toDateTime(updated_at) + toIntervalDay(90) DELETE
SETTINGS {{dedup_window}}
