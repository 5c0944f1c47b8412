-- As 0037.
ALTER TABLE tallyhouse.rollup_1h{{local}} {{on_cluster}} MODIFY SETTING
    merge_selector_base = 10,
    min_parts_to_merge_at_once = 10,
    merge_selector_enable_heuristic_to_remove_small_parts_at_right = 0
