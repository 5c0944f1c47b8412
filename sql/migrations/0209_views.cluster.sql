-- As 0120, of all shards.
CREATE DATABASE IF NOT EXISTS tallyhouse_views
