#!/usr/bin/env bash
# Whether a data folder of an earlier commit opens in this one: `make upgrade FROM=COMMIT`. Builds that commit beside this one, has it take events, kills it
# while some are on their way, opens its folder with this one, and compares answers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
from=${1:?which commit or tag, such as make upgrade FROM=v0.1.0}
target=${CARGO_TARGET_DIR:-$PWD/target}
place=$target/upgrade
say() { echo "upgrade: $*" >&2; }

# A target folder of its own: in one, Cargo takes crates of the same name and number for each other.
git worktree remove --force "$place/source" 2>/dev/null || true
mkdir -p "$place"
git worktree add --quiet --detach "$place/source" "$from"
trap 'git worktree remove --force "$place/source"' EXIT
build() { (cd "$1" && CARGO_TARGET_DIR=$3 cargo build --quiet --locked --bin tallyhouse && cp "$3/debug/tallyhouse" "$place/$2"); }
say "building $(git rev-parse --short "$from")"
build "$place/source" old "$place/target"
say "building this one"
build "$PWD" new "$target"

data=$(mktemp -d)
base=$((20000 + RANDOM % 20000))
export TALLYHOUSE_DEV=1 TALLYHOUSE_DATA=$data TALLYHOUSE_LOG=warn LOG_SYNC=always \
    INGEST_ADDR=127.0.0.1:$base INGEST_ADMIN_ADDR=127.0.0.1:$((base + 1)) QUERY_ADDR=127.0.0.1:$((base + 2)) \
    QUERY_ADMIN_ADDR=127.0.0.1:$((base + 3)) CLICKHOUSE_HTTP_PORT=$((base + 4))
unset KAFKA_BROKERS REDIS_URL CLICKHOUSE_URL
running=
finish() {
    [[ -z $running ]] || kill -9 "$running" 2>/dev/null || true
    git worktree remove --force "$place/source" || true
}
trap finish EXIT

start() {
    TALLYHOUSE_ENGINE_LIBRARY=${TALLYHOUSE_ENGINE_LIBRARY:-$(find .setup/engine -name libchdb.so)} "$place/$1" up 2>>"$data.log" >&2 &
    running=$!
    for _ in $(seq 600); do
        if curl -sf "http://$INGEST_ADMIN_ADDR/health/ready" >&2 && curl -sf "http://$QUERY_ADMIN_ADDR/health/ready" >&2; then return; fi
        kill -0 "$running" || { tail -n 20 "$data.log" >&2; say "$1 ended"; exit 1; }
        sleep 0.2
    done
    say "$1 is not ready after two minutes"
    exit 1
}
# Events FIRST to LAST, an hour apart in the week before today, so that their answers are over.
today=$(date -u +%Y-%m-%d)
send() {
    for id in $(seq "$1" "$2"); do
        at=$(($(date -u -d "$today" +%s) - 3600 * (id % 140 + 1)))000
        echo "{\"eventId\":\"e-$id\",\"eventType\":\"purchase\",\"userId\":\"u-$((id % 50))\",\"timestamp\":$at,\"properties\":{\"amount\":$((id % 7))}}"
    done | curl -sf "http://$INGEST_ADDR/v1/events${3-}" -H 'X-API-Key: demo-ingest-key' -H 'Content-Type: application/x-ndjson' --data-binary @- >&2
}
data_of() { sed 's/.*"data":\(\[.*\]\),"meta".*/\1/'; }
ask() {
    for question in 'events?granularity=hour' 'revenue?granularity=day' 'users?granularity=day' 'value_p95?granularity=day' 'events?granularity=week&timezone=Asia/Kolkata'; do
        curl -sf "http://$QUERY_ADDR/v1/metrics/$question&startTime=$(date -u -d "$today - 7 days" +%Y-%m-%d)&endTime=$today&fresh=true" -H 'X-API-Key: demo-query-key' | data_of
    done
}

start old
send 1 2000 '?wait=stored'
before=$(ask)
# Durable when this returns, and perhaps not stored yet.
send 2001 2500
kill -9 "$running"
wait "$running" 2>/dev/null || true
while curl -sf "http://127.0.0.1:$CLICKHOUSE_HTTP_PORT/ping" >&2; do sleep 0.1; done
say "the old one had 2,500 events acknowledged and was killed"

start new
send 1 2500 '?wait=stored'
counted=$(curl -sf "http://$QUERY_ADDR/v1/metrics/events?granularity=day&startTime=$(date -u -d "$today - 7 days" +%Y-%m-%d)&endTime=$today&fresh=true" \
    -H 'X-API-Key: demo-query-key' | data_of | grep -o '"value":[0-9.]*' | awk -F: '{ sum += $2 } END { print sum + 0 }')
"$place/new" migrate check >&2
"$place/new" rollups verify --project demo >&2
kill "$running"
wait "$running" || true
[[ $counted == 2500 ]] || { say "2,500 events were sent, each twice, and $counted are counted"; exit 1; }

# The same 2,000 events alone, stored by this one: the same answers.
rm -rf "$data"
start new
send 1 2000 '?wait=stored'
after=$(ask)
kill "$running"
wait "$running" || true
running=
[[ $before == "$after" ]] || { diff <(echo "$before") <(echo "$after") >&2; say "answers differ"; exit 1; }
rm -rf "$data" "$data.log"
say "$(git rev-parse --short "$from"): 2,500 events are counted once after the upgrade, and answers are the same"
