#!/usr/bin/env bash
# Real clients of people's tools, with their defaults, on an account: which tables there are, their columns, SELECT *, a series, settings.
#
#   tallyhouse users create --project demo --for bi      # on a Tallyhouse that runs
#   ACCOUNT=… PASSWORD=… deploy/tallyhouse/tests/clients/run.sh
#
# A client that is not installed is SKIPPED, with what installs it. Ends non-zero when one that is there failed.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")"
: "${ACCOUNT:?name of the account}" "${PASSWORD:?its password}"
export HTTP_PORT=${HTTP_PORT:-8123} NATIVE_PORT=${NATIVE_PORT:-} ACCOUNT PASSWORD
failed=0
try() { # name, what installs it, command that finds it, command
  if ! eval "$3" >/dev/null 2>&1; then echo "SKIPPED $1: $2"; return; fi
  if eval "$4"; then echo "ok $1"; else echo "FAILED $1"; failed=1; fi
}
try "clickhouse-connect, Superset's dialect, clickhouse-sqlalchemy" "pip install clickhouse-connect clickhouse-sqlalchemy" \
  "${PYTHON:-python3} -c 'import clickhouse_connect, clickhouse_sqlalchemy'" "${PYTHON:-python3} people.py"
try "@clickhouse/client, Cube" "npm install @clickhouse/client @cubejs-backend/clickhouse-driver in NODE_FOLDER" \
  "test -d ${NODE_FOLDER:-.}/node_modules/@clickhouse/client" "(cp people.mjs ${NODE_FOLDER:-.}/people.mjs && cd ${NODE_FOLDER:-.} && node people.mjs)"
try "clickhouse-jdbc (Metabase, DBeaver)" "jars of com.clickhouse:clickhouse-jdbc in JDBC_FOLDER" \
  "ls ${JDBC_FOLDER:-.}/clickhouse-jdbc-*.jar" "java -cp '${JDBC_FOLDER:-.}/*' People.java 2>/dev/null"
exit "$failed"
