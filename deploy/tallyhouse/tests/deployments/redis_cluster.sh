# redis_cluster.sh STORE FOLDER NETWORK: runs the scripts of deploy/k8s/stores/redis as its pods do, each node at an address of NETWORK (127.x.y), with the
# names that pods have. Only folders and the address that is listened on are others. Run in a mount namespace of its own: names are put into /etc/hosts.
set -euo pipefail
store=$1 folder=$2 network=$3
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT

cp /etc/hosts "$folder/hosts"
for index in 0 1 2 3 4 5; do echo "$network.$((11 + index)) redis-$index.redis" >>"$folder/hosts"; done
mount --bind "$folder/hosts" /etc/hosts
mkdir "$folder/secrets"
printf 'hunter2hunter2' >"$folder/secrets/redis-password"

for index in 0 1 2 3 4 5; do
    address=$network.$((11 + index)) data=$folder/node-$index
    mkdir "$data"
    sed "s|bind \* -::\*|bind $address|" "$store/redis.conf" >"$data/redis.conf"
    sed "s|/run/secrets/tallyhouse|$folder/secrets|; s|/etc/redis/|$data/|; s|/data\b|$data|g" "$store/start.sh" >"$data/start.sh"
    POD_IP=$address POD_NAME=redis-$index setpriv --pdeathsig KILL sh "$data/start.sh" >"$data/log" 2>&1 &
    pids+=($!)
done
sed "s|/run/secrets/tallyhouse|$folder/secrets|" "$store/join.sh" >"$folder/join.sh"
NODES=6 timeout 30 sh "$folder/join.sh"
export REDISCLI_AUTH=hunter2hunter2
until [[ $(redis-cli -h redis-0.redis cluster info | grep -c 'cluster_state:ok') == 1 ]]; do sleep 0.1; done
NODES=6 timeout 30 sh "$folder/join.sh"
# The others hear of it a moment later.
until redis-cli -c -h redis-1.redis set key value | grep -x OK; do sleep 0.1; done
until [[ $(redis-cli -h redis-0.redis cluster nodes | grep -c slave) == 3 ]]; do sleep 0.1; done
redis-cli -h redis-0.redis cluster nodes
