-- Made anew by 0054 under the same name, as 0033. Nothing is inserted meanwhile (0051).
DROP VIEW IF EXISTS tallyhouse.rollup_1m_view {{on_cluster}} SYNC
