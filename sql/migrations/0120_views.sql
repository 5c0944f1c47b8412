-- What dashboards and BI tools read, and nothing else. A view here runs as its definer: whoever reads it needs no right on the
-- tables, and so cannot look into their index or files, and meets no column of states, which clients cannot read. Who sees which
-- projects is said by row policies of the user `definer`, on the tables, by the name of the user that asks.
CREATE DATABASE IF NOT EXISTS tallyhouse_views
