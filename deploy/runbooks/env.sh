# For a shell of whoever is on call: `. deploy/runbooks/env.sh`, on a machine that reaches the admin ports. What differs from the defaults
# (deploy/README.md) is set before: addresses, ADMIN_TOKEN, CLICKHOUSE_URL with its user and password, PROJECT (whose trouble it is) and KEY (one of its keys).

: "${TALLYHOUSE_DATA:=./data}" "${INGEST_ADDR:=127.0.0.1:8081}" "${QUERY_ADDR:=127.0.0.1:8082}"
: "${INGEST_ADMIN_ADDR:=127.0.0.1:9081}" "${QUERY_ADMIN_ADDR:=127.0.0.1:9082}"
: "${SCHEME:=http}"
if [ "${TALLYHOUSE_DEV:-}" = 1 ]; then : "${PROJECT:=demo}" "${KEY:=demo-ingest-key}"; fi

# wait_for SECONDS COMMAND…: until it succeeds. Fails when it has not within that time.
wait_for() {
    local within=$1 last
    shift
    last=$((SECONDS + within))
    until "$@"; do
        if [ "$SECONDS" -ge "$last" ]; then
            echo "not within $within s: $*" >&2
            return 1
        fi
        sleep 0.5
    done
}

# The admin port of the ingester, and of the query API: `ingest_admin /health`.
ingest_admin() { admin_port "$INGEST_ADMIN_ADDR" "$@"; }
query_admin() { admin_port "$QUERY_ADMIN_ADDR" "$@"; }
admin_port() {
    local address=$1 path=$2
    shift 2
    if [ -n "${ADMIN_TOKEN:-}" ]; then set -- "$@" -H "Authorization: Bearer $ADMIN_TOKEN"; fi
    curl -sS --max-time 20 "$@" "$SCHEME://$address$path"
}

# A statement, as the user that writes, within SQL_SECONDS: of the embedded ClickHouse, unless CLICKHOUSE_URL is set.
sql() {
    local url=${CLICKHOUSE_URL:-http://127.0.0.1:${CLICKHOUSE_HTTP_PORT:-8123}} password=${CLICKHOUSE_PASSWORD:-}
    if [ -z "$password" ] && [ -r "$TALLYHOUSE_DATA/credentials" ]; then
        password=$(sed -n 's/^WRITER_PASSWORD=//p' "$TALLYHOUSE_DATA/credentials")
    fi
    curl -sS --fail-with-body --max-time "${SQL_SECONDS:-60}" -H "X-ClickHouse-User: ${CLICKHOUSE_USER:-writer}" -H "X-ClickHouse-Key: $password" \
        --data-binary "$1" "$url/?database=tallyhouse&default_format=TSVWithNames"
}
