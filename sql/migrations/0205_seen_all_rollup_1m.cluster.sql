-- Of all shards, as whoever asks.
CREATE TABLE IF NOT EXISTS tallyhouse_seen.all_rollup_1m AS tallyhouse_seen.rollup_1m
ENGINE = Distributed('{{cluster}}', 'tallyhouse_seen', 'rollup_1m')
