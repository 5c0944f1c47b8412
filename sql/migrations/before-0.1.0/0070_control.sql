-- The control plane: projects, keys, schemas, metrics, grants, suppressions and jobs. A row is a version and is never removed; the
-- greatest version of a name is the one in force. What has to be forgotten is made empty in its place, so that versions go on counting.
--
-- A version is inserted under a token of its kind, project, number and name, so that of two writers of one version one is kept.
CREATE TABLE IF NOT EXISTS tallyhouse.control{{local}} {{on_cluster}}
(
    kind        LowCardinality(String),
    project_id  LowCardinality(String) COMMENT 'empty for what belongs to the installation',
    name        String,
    version     UInt32,
    document    String COMMENT 'JSON, as the kind says; never a secret' CODEC(ZSTD(3)),
    claim       String COMMENT 'who wrote this version: told apart when two wrote the same one',
    created_by  LowCardinality(String) COMMENT 'id of a key, or a user',
    created_at  DateTime64(3, 'UTC')
)
ENGINE = {{replicated}}MergeTree
ORDER BY (kind, project_id, name, version)
SETTINGS {{dedup_window}}, fsync_after_insert = 1, fsync_part_directory = 1
