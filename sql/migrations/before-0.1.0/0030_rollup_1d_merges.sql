-- As 0029.
ALTER TABLE tallyhouse.rollup_1d{{local}} {{on_cluster}} MODIFY SETTING merge_selector_base = 2
