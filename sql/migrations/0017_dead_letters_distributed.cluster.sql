-- A project's letters are on one shard, so that the rows of one letter meet.
CREATE TABLE IF NOT EXISTS tallyhouse.dead_letters {{on_cluster}} AS tallyhouse.dead_letters_local
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'dead_letters_local', cityHash64(project_id))
