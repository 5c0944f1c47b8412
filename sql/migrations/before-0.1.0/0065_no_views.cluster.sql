-- A view runs as its definer on this server, and as the account that asks on the other shards, which knows nothing of that. Until accounts work
-- across shards there are no views on a cluster: these would show what one shard holds.
DROP DATABASE IF EXISTS tallyhouse_views SYNC
