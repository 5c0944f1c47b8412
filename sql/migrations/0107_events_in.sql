-- The only table that is inserted into. It keeps nothing; the views fan out from it.
CREATE TABLE IF NOT EXISTS tallyhouse.events_in
(
    project_id       LowCardinality(String),
    event_id         String,
    event_type       LowCardinality(String),
    ts               DateTime64(3, 'UTC'),
    value            Nullable(Float64),
    user_id          String,
    anonymous_id     String,
    user_hash        UInt64,
    session_id       String,
    country          LowCardinality(String),
    device           LowCardinality(String),
    os               LowCardinality(String),
    browser          LowCardinality(String),
    locale           LowCardinality(String),
    page             String,
    ip               String,
    props            Map(LowCardinality(String), String),
    num_props        Map(LowCardinality(String), Float64),
    dims             Array(Tuple(LowCardinality(String), String)),
    original_ts      DateTime64(3, 'UTC'),
    received_at      DateTime64(3, 'UTC'),
    flags            UInt16,
    retention_days   UInt16,
    source_partition Int32 DEFAULT -1,
    source_offset    Int64 DEFAULT -1
)
ENGINE = Null
