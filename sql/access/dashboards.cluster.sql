-- Dashboards and BI tools on a cluster with a `secret` in `remote_servers`: run on each server as an administrator after `dashboards.sql`, whose
-- users have the same passwords everywhere. Accounts of `tallyhouse users create` have this already.

-- What stands behind the views on each shard: with a secret a shard asks the others as the account that asked it. It shows no more than they do.
GRANT SELECT ON tallyhouse_seen.* TO grafana;

-- As for `reader` in `cluster.sql`.
ALTER USER grafana SETTINGS PROFILE 'tallyhouse_dashboards', max_result_rows = 200000 MIN 0 MAX 200000,
    max_result_bytes = 104857600 MIN 0 MAX 104857600;
