-- Made anew by 0034 under the same name, which is what its part of a deduplication token is made of. Not by MODIFY QUERY: after that a
-- repeated insert is counted again once ClickHouse has been restarted (seen with 26.7.2). Nothing is inserted meanwhile (0031).
DROP VIEW IF EXISTS tallyhouse.rollup_1h_view {{on_cluster}} SYNC
