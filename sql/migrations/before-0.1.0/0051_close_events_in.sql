-- Until 0056 no insert begins, as 0031: minutes are about to be counted under every type, of what is there.
ALTER TABLE tallyhouse.events_in {{on_cluster}}
ADD COLUMN IF NOT EXISTS closed_for_migration UInt8
    MATERIALIZED throwIf(length(project_id) >= 0, 'a migration holds inserts back for a moment')
