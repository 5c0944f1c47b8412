CREATE MATERIALIZED VIEW IF NOT EXISTS tallyhouse.events_view {{on_cluster}}
TO tallyhouse.events{{local}}
AS SELECT * FROM tallyhouse.events_in
