-- Reads go through this; writes go to `events_in` of one shard, because a retry that lands on another shard would count twice.
CREATE TABLE IF NOT EXISTS tallyhouse.rollup_1h {{on_cluster}} AS tallyhouse.rollup_1h_local
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'rollup_1h_local', cityHash64(project_id))
