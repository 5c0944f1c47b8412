#!/usr/bin/env bash
# `make run`: starts everything, streams the flights in, shows where to look, and stops everything on ctrl-C.
#   DEMO=0    an empty system
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
binaries=${CARGO_TARGET_DIR:-$root/target}/release
cd "$root"

export TALLYHOUSE_DEV=1 TALLYHOUSE_DATA=${TALLYHOUSE_DATA:-./data}
ingest=${INGEST_ADDR:-127.0.0.1:8081}
query=${QUERY_ADDR:-127.0.0.1:8082}
ingest_admin=${INGEST_ADMIN_ADDR:-127.0.0.1:9081}
query_admin=${QUERY_ADMIN_ADDR:-127.0.0.1:9082}
log=$TALLYHOUSE_DATA/tallyhouse.log

fail() {
    printf 'run: %s\n' "$*" >&2
    exit 1
}

# Beside a running one nothing is touched: not its log, not its data. `tallyhouse` locks the files of the parts that it works on.
umask 077
mkdir -p "$TALLYHOUSE_DATA"
exec 8>>"$TALLYHOUSE_DATA/tallyhouse.lock"
in_use() { fail "Tallyhouse runs already in $TALLYHOUSE_DATA$1; stop it, or choose another folder with TALLYHOUSE_DATA"; }
flock --nonblock 8 || in_use ""
for part in services engine; do
    instance=$TALLYHOUSE_DATA/$part.instance
    if [[ -f $instance ]] && ! flock --nonblock "$instance" true; then
        in_use "$(sed -n 's/.*"pid":\([0-9]*\).*/ (process \1)/p' "$instance")"
    fi
done

[[ ! -f $log ]] || mv "$log" "$log.1"
"$binaries/tallyhouse" up >"$log" 2>&1 8>&- &
server=$!

# Whatever ends this script ends the server, which drains first.
stop() {
    kill -TERM "$server" 2>/dev/null && echo "Stopping" || true
    wait "$server" || true
}
trap stop EXIT
trap 'exit 0' INT TERM

# Another one may listen on the same port.
is_ready() {
    local health
    health=$(curl --silent --max-time 2 "http://$1/health") || return 1
    [[ $health == *'"ready":true'* && $health =~ \"pid\":$server[,}] ]]
}
echo "Starting (log: $log)"
deadline=$((SECONDS + 150))
until is_ready "$ingest_admin" && is_ready "$query_admin"; do
    if ! kill -0 "$server" 2>/dev/null; then
        tail -n 1 "$log" >&2
        exit 1
    fi
    if ((SECONDS > deadline)); then
        echo "not ready after 150 s; see $log" >&2
        exit 1
    fi
    sleep 0.2
done

if [[ ${DEMO:-1} != 0 ]]; then
    "$binaries/loadtest" feed --flights .setup/flights.csv --url "http://$ingest" --chart "http://$query"
fi

# Its passwords were made for this data folder; a given ClickHouse has its own.
clickhouse=${CLICKHOUSE_URL:-}
if [[ -z $clickhouse ]]; then
    password=$(sed -n 's/^READER_PASSWORD=//p' "$TALLYHOUSE_DATA/credentials")
    clickhouse="http://127.0.0.1:${CLICKHOUSE_HTTP_PORT:-8123}      (user reader, password $password; others: $TALLYHOUSE_DATA/credentials)"
fi

cat <<TEXT

Tallyhouse is up.
  events in       http://$ingest/v1/events      (X-API-Key: demo-ingest-key)
  metrics out     http://$query/v1/metrics/events      (X-API-Key: demo-query-key)
  health          http://$ingest_admin/health   http://$query_admin/health
  Prometheus      http://$ingest_admin/metrics  http://$query_admin/metrics
  ClickHouse      $clickhouse

Ctrl-C drains and stops.
TEXT
wait "$server"
