-- What the users of Tallyhouse need on each server of a cluster, beside `services.sql`: run it there as an administrator, after that one and before
-- `tallyhouse migrate up --cluster NAME`. With a `secret` in `remote_servers` each server asks the others as the user that asked it, so users and
-- passwords are the same everywhere.

GRANT SELECT, CREATE, DROP, SHOW ON tallyhouse_all.* TO writer;
GRANT TABLE ENGINE ON Distributed TO writer;
GRANT REMOTE ON *.* TO writer;

-- Where a shard has several servers.
GRANT TABLE ENGINE ON ReplicatedMergeTree TO writer;
GRANT TABLE ENGINE ON ReplicatedAggregatingMergeTree TO writer;
GRANT TABLE ENGINE ON ReplicatedReplacingMergeTree TO writer;

GRANT SELECT ON tallyhouse_all.* TO reader;
