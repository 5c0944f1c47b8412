-- Who changed what in the control plane, when, and with what result. Append-only; never a secret.
CREATE TABLE IF NOT EXISTS tallyhouse.audit
(
    at          DateTime64(3, 'UTC'),
    id          String COMMENT 'ULID; also the token of the insert',
    project_id  LowCardinality(String) COMMENT 'empty for what belongs to the installation',
    actor       String COMMENT 'id of a key, a user, or the command line',
    action      LowCardinality(String) COMMENT 'such as keys.create',
    object      String COMMENT 'what was worked on: the id of a key, the name of a project',
    result      LowCardinality(String) COMMENT 'done, or the code of the refusal',
    details     String COMMENT 'JSON' CODEC(ZSTD(3))
)
ENGINE = {{replicated}}MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (project_id, at, id)
SETTINGS {{dedup_window}}, fsync_after_insert = 1, fsync_part_directory = 1
