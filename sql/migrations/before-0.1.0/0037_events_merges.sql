-- Ten parts or more are merged at a time. An insert leaves a small part in each table, and by default every few of them were merged
-- into the part before, which was written anew each time: a row of states that is merged costs as much as a new one, so that small
-- inserts cost more in merges than by themselves. `…_remove_small_parts_at_right` made it worse, as it takes the small parts out of
-- such a merge but for two. Measured in sql/README.md, with what it costs readers.
ALTER TABLE tallyhouse.events{{local}} {{on_cluster}} MODIFY SETTING
    merge_selector_base = 10,
    min_parts_to_merge_at_once = 10,
    merge_selector_enable_heuristic_to_remove_small_parts_at_right = 0
