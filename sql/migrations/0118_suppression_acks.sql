-- What each process that stores events knows of suppressions. A process writes its row when that changes, and once a minute.
CREATE TABLE IF NOT EXISTS tallyhouse.suppression_acks
(
    process    String,
    known      UInt64 COMMENT 'suppressions up to this version apply to everything that it stores from now on',
    leftovers  UInt64 COMMENT 'rises when it had to store what may be erased already: a batch that was begun before',
    is_running UInt8,
    updated_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {{replicated}}ReplacingMergeTree(updated_at)
ORDER BY process
TTL toDateTime(updated_at) + toIntervalDay(7) DELETE
