-- A project's lines are on one shard.
CREATE TABLE IF NOT EXISTS tallyhouse.audit {{on_cluster}} AS tallyhouse.audit_local
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'audit_local', cityHash64(project_id))
