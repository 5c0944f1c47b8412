-- Parts are merged sooner than by default (5): every part that holds some of a range is work for each question about it, and
-- merges of rows this few are cheap. Measured in sql/README.md.
ALTER TABLE tallyhouse.rollup_1h{{local}} {{on_cluster}} MODIFY SETTING merge_selector_base = 2
