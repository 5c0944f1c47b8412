"""clickhouse-connect, its SQLAlchemy dialect (as Superset has it), and clickhouse-sqlalchemy."""

import os

import clickhouse_connect
from sqlalchemy import create_engine, inspect, text

account, password, http, native = (os.environ[name] for name in ("ACCOUNT", "PASSWORD", "HTTP_PORT", "NATIVE_PORT"))
VIEWS = ["events", "series_1d", "series_1h", "series_1m"]
SERIES = "SELECT toStartOfHour(bucket) AS t, sum(events) FROM tallyhouse_views.series_1h WHERE dim_set = '' GROUP BY t ORDER BY t"

client = clickhouse_connect.get_client(host="127.0.0.1", port=int(http), username=account, password=password)
assert [row[0] for row in client.query("SHOW TABLES").result_rows] == VIEWS
assert len(client.query("SELECT * FROM events LIMIT 5").column_names) == 20
client.query(SERIES)
settings = {"join_use_nulls": 1, "async_insert": 1, "wait_end_of_query": 1, "max_result_rows": 1000}
client = clickhouse_connect.get_client(
    host="127.0.0.1", port=int(http), username=account, password=password, settings=settings
)
assert client.query("SELECT 1").result_rows == [(1,)]

engine = create_engine(f"clickhousedb://{account}:{password}@127.0.0.1:{http}")
inspector = inspect(engine)
assert inspector.get_schema_names() == ["tallyhouse_views"]
assert sorted(set(inspector.get_table_names("tallyhouse_views")) | set(inspector.get_view_names("tallyhouse_views"))) == VIEWS
assert len(inspector.get_columns("events", "tallyhouse_views")) == 20
with engine.connect() as connection:
    connection.execute(text(SERIES)).fetchall()

urls = [f"clickhouse+http://{account}:{password}@127.0.0.1:{http}/tallyhouse_views"]
urls += [f"clickhouse+native://{account}:{password}@127.0.0.1:{native}/tallyhouse_views"] if native else []
for url in urls:
    with create_engine(url).connect() as connection:
        connection.execute(text(SERIES)).fetchall()
