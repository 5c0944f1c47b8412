-- Until 0036 no insert begins: a writer is refused before anything of its batch is written, and repeats it with the same
-- token. Quarters of an hour are about to be counted from raw events, and what came in between would count twice or never.
ALTER TABLE tallyhouse.events_in {{on_cluster}}
ADD COLUMN IF NOT EXISTS closed_for_migration UInt8
    MATERIALIZED throwIf(length(project_id) >= 0, 'a migration holds inserts back for a moment')
