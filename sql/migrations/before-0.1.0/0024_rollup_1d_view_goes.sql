-- Made anew by 0025 under the same name, which is what its part of a deduplication token is made of. Not by MODIFY QUERY: after that a
-- repeated insert is counted again once ClickHouse has been restarted (seen with 26.7.2). Nothing is inserted meanwhile (0020).
DROP VIEW IF EXISTS tallyhouse.rollup_1d_view {{on_cluster}} SYNC
