-- What the shards hold together. Each server has the tables of a single one, under their own names, in `tallyhouse`; whoever asks for
-- everything reads the tables of this database, which ask all shards. Nothing is inserted through them: a batch that is repeated has to
-- reach the shard that knows its token.
CREATE DATABASE IF NOT EXISTS tallyhouse_all
