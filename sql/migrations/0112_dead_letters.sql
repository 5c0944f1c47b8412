-- Events that were refused, and records that could not be read, for somebody to look at and send again.
--
-- A letter that is replayed or discarded is inserted once more, newer: rows are read with FINAL and never changed.
-- `failed_at` is not touched by that, so all rows of a letter are in one partition.
CREATE TABLE IF NOT EXISTS tallyhouse.dead_letters
(
    project_id       LowCardinality(String),
    id               String,
    kind             LowCardinality(String) COMMENT 'json: an event; record: a Kafka record',
    code             LowCardinality(String),
    reason           String COMMENT 'what the sender was told' CODEC(ZSTD(1)),
    payload          String COMMENT 'as received, any bytes, at most 32 KiB' CODEC(ZSTD(3)),
    event_id         String COMMENT 'empty when it could not be read',
    source_topic     LowCardinality(String),
    source_partition Int32 DEFAULT -1 COMMENT 'Kafka partition, -1 without Kafka',
    source_offset    Int64 DEFAULT -1 COMMENT 'Kafka offset, -1 without Kafka',
    key_id           LowCardinality(String),
    received_at      DateTime64(3, 'UTC'),
    failed_at        DateTime64(3, 'UTC'),
    state            LowCardinality(String) DEFAULT 'open' COMMENT 'open, replayed or discarded',
    updated_at       DateTime64(3, 'UTC')
)
ENGINE = {{replicated}}ReplacingMergeTree(updated_at)
PARTITION BY toMonday(failed_at)
ORDER BY (project_id, id)
TTL toDateTime(failed_at) + toIntervalDay(90) DELETE
SETTINGS {{dedup_window}}, ttl_only_drop_parts = 1
