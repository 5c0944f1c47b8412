-- A project's metrics are on one shard, so that two writers of one version meet.
CREATE TABLE IF NOT EXISTS tallyhouse.metric_definitions {{on_cluster}} AS tallyhouse.metric_definitions_local
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'metric_definitions_local', cityHash64(project_id))
