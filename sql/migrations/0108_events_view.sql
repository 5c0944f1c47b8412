CREATE MATERIALIZED VIEW IF NOT EXISTS tallyhouse.events_view
TO tallyhouse.events
AS SELECT * FROM tallyhouse.events_in
