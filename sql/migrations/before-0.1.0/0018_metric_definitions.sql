-- Metrics that projects have registered. A row is a version and is never changed; the greatest is the one in force.
--
-- A version is inserted under the token `metric/project/name/version`, so that of two that would be the same one is kept.
CREATE TABLE IF NOT EXISTS tallyhouse.metric_definitions{{local}} {{on_cluster}}
(
    project_id  LowCardinality(String),
    name        String,
    version     UInt32,
    document    String COMMENT 'JSON: what it computes, with every metric that it refers to written out' CODEC(ZSTD(3)),
    claim       String COMMENT 'who wrote this version: told apart when two wrote the same one',
    created_by  LowCardinality(String) COMMENT 'id of the key',
    created_at  DateTime64(3, 'UTC')
)
ENGINE = {{replicated}}MergeTree
ORDER BY (project_id, name, version)
SETTINGS {{dedup_window}}
