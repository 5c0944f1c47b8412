-- Each version is in `control` since 0092, and nothing reads them here.
DROP TABLE IF EXISTS tallyhouse.metric_definitions {{on_cluster}} SYNC
