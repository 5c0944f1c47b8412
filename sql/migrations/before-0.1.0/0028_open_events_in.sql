-- Inserts begin again (0020).
ALTER TABLE tallyhouse.events_in {{on_cluster}} DROP COLUMN IF EXISTS closed_for_migration
