-- What a project has is on one shard, so that two writers of one version meet.
CREATE TABLE IF NOT EXISTS tallyhouse.control {{on_cluster}} AS tallyhouse.control_local
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'control_local', cityHash64(project_id))
