#!/bin/sh
# Starts a node of the cluster. Clients are told names, which last; nodes.conf, on its disk, tells it who it is after a restart with another address.
set -eu
password=$(cat /run/secrets/tallyhouse/redis-password)
exec redis-server /etc/redis/redis.conf --requirepass "$password" --masterauth "$password" --dir /data \
    --cluster-enabled yes --cluster-config-file /data/nodes.conf --cluster-node-timeout 5000 \
    --cluster-require-full-coverage no --cluster-announce-ip "$POD_IP" \
    --cluster-announce-hostname "$POD_NAME.redis" --cluster-preferred-endpoint-type hostname
