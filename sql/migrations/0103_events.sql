-- Raw events. Rows come only through `events_in`.
--
-- The key serves "one project, one event type, a range of time" and keeps a user's events of an hour together.
-- ReplacingMergeTree is a back-stop only: nothing is counted from here, and duplicates are stopped before the insert.
-- A partition is a week and a retention, so that whole parts expire (`ttl_only_drop_parts`) exactly when they may.
-- Where the server has warm and cold volumes, `src/tiers.rs` says after how many days they are moved there.
-- The window remembers partition parts, not inserts: see "Deduplication window" in sql/README.md for its size.
-- Ten parts or more are merged at a time: an insert leaves a small part in each table, and a row of states that is merged costs as much as a
-- new one. Measured in sql/README.md, with what it costs readers.
CREATE TABLE IF NOT EXISTS tallyhouse.events
(
    project_id       LowCardinality(String),
    event_id         String CODEC(ZSTD(1)),
    event_type       LowCardinality(String),
    ts               DateTime64(3, 'UTC') COMMENT 'event time, after normalisation' CODEC(DoubleDelta, ZSTD(1)),
    value            Nullable(Float64) CODEC(ZSTD(1)),
    user_id          String CODEC(ZSTD(1)),
    anonymous_id     String CODEC(ZSTD(1)),
    user_hash        UInt64 COMMENT 'keyed hash of user_id, else of anonymous_id; 0 when there is neither' CODEC(ZSTD(1)),
    session_id       String CODEC(ZSTD(1)),
    country          LowCardinality(String),
    device           LowCardinality(String),
    os               LowCardinality(String),
    browser          LowCardinality(String),
    locale           LowCardinality(String),
    page             String CODEC(ZSTD(1)),
    ip               String COMMENT 'masked: the last octet (IPv4) or the last 80 bits (IPv6) are zero' CODEC(ZSTD(1)),
    props            Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    num_props        Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    dims             Array(Tuple(LowCardinality(String), String)) COMMENT '(dim_set, dim_value) pairs it was counted under, without the total' CODEC(ZSTD(1)),
    original_ts      DateTime64(3, 'UTC') COMMENT 'event time as the client gave it' CODEC(DoubleDelta, ZSTD(1)),
    received_at      DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    flags            UInt16 COMMENT 'what normalisation changed: schema/src/event.rs' CODEC(ZSTD(1)),
    retention_days   UInt16 CODEC(ZSTD(1)),
    source_partition Int32 DEFAULT -1 COMMENT 'Kafka partition, -1 without Kafka' CODEC(ZSTD(1)),
    source_offset    Int64 DEFAULT -1 COMMENT 'Kafka offset, -1 without Kafka' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_event_id event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_user_id user_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_received_at received_at TYPE minmax GRANULARITY 1
)
ENGINE = {{replicated}}ReplacingMergeTree(received_at)
PARTITION BY (toMonday(ts), retention_days)
ORDER BY (project_id, event_type, toStartOfHour(ts), user_hash, ts, event_id)
TTL toDateTime(ts) + toIntervalDay(retention_days) DELETE
SETTINGS {{dedup_window}}, ttl_only_drop_parts = 1{{storage_policy}}, merge_selector_base = 10, min_parts_to_merge_at_once = 10,
    merge_selector_enable_heuristic_to_remove_small_parts_at_right = 0
