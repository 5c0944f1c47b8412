-- As 0041. A column that is added to the table is added here, too.
CREATE TABLE IF NOT EXISTS tallyhouse_all.rollup_1m AS tallyhouse.rollup_1m
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'rollup_1m')
