-- Accounts of people's tools on a cluster. A view runs as its definer on one server, and a Distributed table behind it would ask the other shards
-- as the account, which may read no table there. So the definer is as far down as can be: each shard has views of its own tables here, which
-- show an account its project (the row policies of `definer`, by the name of who asks: with a `secret` in `remote_servers` that is the
-- account on every shard). Distributed tables ask these views, and what accounts read in `tallyhouse_views` runs as the account itself.
CREATE DATABASE IF NOT EXISTS tallyhouse_seen
