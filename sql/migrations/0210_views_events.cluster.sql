-- As 0121, of all shards, as whoever asks.
CREATE TABLE IF NOT EXISTS tallyhouse_views.events AS tallyhouse_seen.events
ENGINE = Distributed('{{cluster}}', 'tallyhouse_seen', 'events')
