-- Until 0028 no insert begins: a writer is refused before anything of its batch is written, and repeats it with the same
-- token. Rows of every type are about to be made of the rows of each type, and what came in between would count twice.
ALTER TABLE tallyhouse.events_in {{on_cluster}}
ADD COLUMN IF NOT EXISTS closed_for_migration UInt8
    MATERIALIZED throwIf(length(project_id) >= 0, 'a migration holds inserts back for a moment')
