-- Reads go through this; writes go to `events_in` of one shard, because a retry that lands on another shard would count twice.
CREATE TABLE IF NOT EXISTS tallyhouse.events {{on_cluster}} AS tallyhouse.events_local
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'events_local', cityHash64(project_id))
