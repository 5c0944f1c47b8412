-- A server that was a single one has views of its own rows under the names of those below.
DROP DATABASE IF EXISTS tallyhouse_views
