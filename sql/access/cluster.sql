-- What the users of Tallyhouse need on each server of a cluster, beside `services.sql`: run it there as an administrator, after that one and before
-- `tallyhouse migrate up --cluster NAME`. With a `secret` in `remote_servers` each server asks the others as the user that asked it, so users and
-- passwords are the same everywhere.

GRANT SELECT, CREATE, DROP, SHOW ON tallyhouse_all.* TO writer;
GRANT SELECT, CREATE, DROP, SHOW ON tallyhouse_seen.* TO writer;
GRANT TABLE ENGINE ON Distributed TO writer;
GRANT REMOTE ON *.* TO writer;

-- Where a shard has several servers.
GRANT TABLE ENGINE ON ReplicatedMergeTree TO writer;
GRANT TABLE ENGINE ON ReplicatedAggregatingMergeTree TO writer;
GRANT TABLE ENGINE ON ReplicatedReplacingMergeTree TO writer;

GRANT SELECT ON tallyhouse_all.* TO reader;

-- A subquery is asked of the other shards without a limit of its result, which is 0; a profile whose least is 1 would take it for 1.
ALTER USER reader SETTINGS PROFILE 'tallyhouse_reader', max_result_rows = 1000000 MIN 0 MAX 100000000,
    max_result_bytes = 104857600 MIN 0 MAX 100000000000;
