-- A project's keys are on one shard, so that the rows of one key meet.
CREATE TABLE IF NOT EXISTS tallyhouse.key_use {{on_cluster}} AS tallyhouse.key_use_local
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'key_use_local', cityHash64(project_id))
