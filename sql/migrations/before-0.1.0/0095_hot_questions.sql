-- The questions that were asked most, as they came, without who asked: a query API whose cache is empty asks them again at its start. Written at
-- most once an hour per question by each process; the newest row of a question counts.
CREATE TABLE IF NOT EXISTS tallyhouse.hot_questions{{local}} {{on_cluster}}
(
    project_id  LowCardinality(String),
    question    String COMMENT 'JSON: path and parameters, or the body' CODEC(ZSTD(3)),
    hits        UInt32 COMMENT 'in about the last two minutes',
    asked_at    DateTime64(3, 'UTC')
)
ENGINE = {{replicated}}ReplacingMergeTree(asked_at)
ORDER BY (project_id, sipHash64(question))
TTL toDateTime(asked_at) + toIntervalDay(7) DELETE
SETTINGS {{dedup_window}}
