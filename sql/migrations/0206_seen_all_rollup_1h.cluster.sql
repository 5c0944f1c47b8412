-- Of all shards, as whoever asks.
CREATE TABLE IF NOT EXISTS tallyhouse_seen.all_rollup_1h AS tallyhouse_seen.rollup_1h
ENGINE = Distributed('{{cluster}}', 'tallyhouse_seen', 'rollup_1h')
