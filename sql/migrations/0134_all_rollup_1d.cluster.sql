-- As 0130. A column that is added to the table is added here, too.
CREATE TABLE IF NOT EXISTS tallyhouse_all.rollup_1d AS tallyhouse.rollup_1d
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'rollup_1d')
