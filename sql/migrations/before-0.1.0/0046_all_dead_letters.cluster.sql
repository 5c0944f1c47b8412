-- As 0041. A column that is added to the table is added here, too.
CREATE TABLE IF NOT EXISTS tallyhouse_all.dead_letters AS tallyhouse.dead_letters
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'dead_letters')
