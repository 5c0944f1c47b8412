#!/bin/sh
# Makes one cluster of NODES nodes, each primary with one replica, once: a cluster that is there is left alone.
set -eu
REDISCLI_AUTH=$(cat /run/secrets/tallyhouse/redis-password)
export REDISCLI_AUTH
first=redis-0.redis
until redis-cli -h "$first" -p "${PORT:-6379}" ping | grep -q PONG; do sleep 2; done
if redis-cli -h "$first" -p "${PORT:-6379}" cluster info | grep -q 'cluster_state:ok'; then
    echo "the cluster is there already"
    exit 0
fi
nodes=
index=0
while [ "$index" -lt "$NODES" ]; do
    name="redis-$index.redis"
    until redis-cli -h "$name" -p "${PORT:-6379}" ping | grep -q PONG; do sleep 2; done
    nodes="$nodes $name:${PORT:-6379}"
    index=$((index + 1))
done
# shellcheck disable=SC2086
redis-cli --cluster create $nodes --cluster-replicas 1 --cluster-yes
