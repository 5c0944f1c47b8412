-- Which shard this server is part of, and when each was added. Written by `tallyhouse migrate up` on every server, read by who inserts: a list
-- of servers in another order is refused before anything is stored in the wrong place.
CREATE TABLE IF NOT EXISTS tallyhouse.shards
(
    number   UInt32 COMMENT 'from 1, in the order of the list; never another one',
    is_here  UInt8 COMMENT '1 in the row of the shard that this server is part of',
    added_at DateTime64(3, 'UTC') COMMENT 'batches that were begun before know nothing of it'
)
ENGINE = ReplacingMergeTree
ORDER BY number
