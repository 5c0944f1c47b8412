-- What has been applied. The runner reads it with FINAL, so recording a file twice changes nothing.
CREATE TABLE IF NOT EXISTS tallyhouse.migrations
(
    version    UInt32,
    name       String,
    checksum   String COMMENT 'SHA-256 of the file as written, before it is rendered',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {{replicated}}ReplacingMergeTree(applied_at)
ORDER BY version
