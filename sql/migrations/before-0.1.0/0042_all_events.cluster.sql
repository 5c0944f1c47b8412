-- As 0041. A column that is added to the table is added here, too.
CREATE TABLE IF NOT EXISTS tallyhouse_all.events AS tallyhouse.events
ENGINE = Distributed('{{cluster}}', 'tallyhouse', 'events')
