#!/usr/bin/env python3
"""Measures the choices that sql/ records beside its tables: the precision of distinct counts, the state of quantiles, the
insert format, the size of a block and how many inserts run at a time.

Runs against a throw-away Tallyhouse (it leaves rows of a project `measure` behind) and prints Markdown. Absolute figures are
of one machine; compare the rows of one run.

    loadtest/measure.py http://127.0.0.1:8123 writer "$(sed -n 's/^WRITER_PASSWORD=//p' data/credentials)"
"""
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor

URL, USER, PASSWORD = (sys.argv[1:] + ["http://127.0.0.1:8123", "writer", ""][len(sys.argv) - 1:])[:3]
SCRATCH = "tallyhouse.measure_"  # what the names of scratch tables begin with


def call(sql, body=b"", **settings):
    query = urllib.parse.urlencode({"query": sql, **settings})
    request = urllib.request.Request(f"{URL}/?{query}", data=body, method="POST")
    request.add_header("X-ClickHouse-User", USER)
    request.add_header("X-ClickHouse-Key", PASSWORD)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"ClickHouse refused: {error.read().decode(errors='replace')[:400]}\n  {sql[:300]}")


def drop_scratch():
    for name, kind in (("mv", "VIEW"), ("src", "TABLE"), ("r", "TABLE"), ("v", "TABLE")):
        call(f"DROP {kind} IF EXISTS {SCRATCH}{name} SYNC")


def one(sql):
    return call(sql).decode().strip()


# An event as the ingester writes it: 8 types, 20 countries, 3 devices, 10 k users, five properties, the default sets.
def rows(count, offset):
    return f"""
    SELECT 'measure' AS project_id, concat('e', toString(n)) AS event_id, concat('type_', toString(n % 8)) AS event_type,
        toDateTime64(now() - (n % 60), 3, 'UTC') AS ts, if(n % 4 = 0, NULL, toFloat64(n % 1000)) AS value,
        concat('user_', toString(cityHash64(n) % 10000)) AS user_id, '' AS anonymous_id,
        cityHash64(user_id) AS user_hash, concat('s', toString(n % 30000)) AS session_id,
        concat('C', toString(cityHash64(n, 1) % 20)) AS country, ['desktop', 'mobile', 'tablet'][1 + n % 3] AS device,
        'Linux' AS os, 'Firefox' AS browser, 'de' AS locale, '/p' AS page, '203.0.113.0' AS ip,
        map('plan', 'pro', 'source', 'mail', 'button', concat('b', toString(n % 50))) AS props,
        map('value', toFloat64(n % 1000), 'position', toFloat64(n % 7)) AS num_props,
        [('country', country), ('device', device), ('country,device', concat(country, '\\x1f', device))] AS dims,
        ts AS original_ts, ts AS received_at, toUInt16(0) AS flags, toUInt16(730) AS retention_days
    FROM (SELECT number + {offset} AS n FROM numbers({count}))"""


EXACT = dict(async_insert=0, wait_end_of_query=1, deduplicate_insert="enable",
             deduplicate_blocks_in_dependent_materialized_views=1, max_insert_block_size=1048449,
             min_insert_block_size_rows=1048449, min_insert_block_size_bytes=268402944, optimize_on_insert=0,
             parallel_view_processing=1, query_plan_enable_optimizations=0, max_threads=2)


def insert(table, form, body):
    call(f"INSERT INTO {table} FORMAT {form}", body, insert_deduplication_token=str(uuid.uuid4()), **EXACT)


def rate(table, form, bodies, block, parallel):
    """Rows a second, best of two passes: the first one also warms the engine."""
    best = 0
    for _ in range(2):
        started = time.perf_counter()
        with ThreadPoolExecutor(parallel) as pool:
            list(pool.map(lambda body: insert(table, form, body), bodies))
        best = max(best, len(bodies) * block / (time.perf_counter() - started))
    return best


def distinct():
    print("### Distinct users: state size and error\n")
    print("| users in a bucket | " + " | ".join(f"uniqCombined64({p})" for p in (12, 14, 17)) + " | uniqExact |")
    print("|---|---|---|---|---|")
    for n in (100, 1_000, 10_000, 100_000):
        cells = []
        for function in ("uniqCombined64(12)", "uniqCombined64(14)", "uniqCombined64(17)", "uniqExact"):
            name, _, parameter = function.partition("(")
            state = f"{name}State({parameter}" if parameter else f"{name}State"
            size = one(f"SELECT length(toString({state}(cityHash64(number)))) FROM numbers({n})")
            worst = one(f"""SELECT round(100 * max(abs(u - {n}) / {n}), 2) FROM (
                SELECT intDiv(number, {n}) AS g, {function}(cityHash64(number)) AS u FROM numbers({n * 30}) GROUP BY g)""")
            cells.append(f"{int(size):,} B, worst {worst} %")
        print(f"| {n:,} | " + " | ".join(cells) + " |")


def quantiles():
    print("\n### Quantiles: state size, and error of the p99 after merging 1,000 states\n")
    print("| state | size at 100 values | at 10,000 | worst p99 error of 20 merges |")
    print("|---|---|---|---|")
    value = "exp(randNormal(3, 1.5))"
    drop_scratch()
    call(f"CREATE TABLE {SCRATCH}v ENGINE = MergeTree ORDER BY g AS "
         f"SELECT number % 20 AS g, intDiv(number, 20) % 1000 AS part, {value} AS x FROM numbers(2000000)")
    for name, parameters in (("quantilesDD", "0.01, 0.5, 0.95, 0.99"), ("quantilesTDigest", "0.5, 0.95, 0.99"),
                             ("quantiles", "0.5, 0.95, 0.99"), ("quantilesBFloat16", "0.5, 0.95, 0.99")):
        sizes = [one(f"SELECT length(toString({name}State({parameters})(x))) FROM (SELECT x FROM {SCRATCH}v LIMIT {n})")
                 for n in (100, 10_000)]
        worst = one(f"""SELECT round(100 * max(abs(a - e) / e), 2) FROM (
            SELECT g, ({name}Merge({parameters})(s))[3] AS a FROM (
                SELECT g, part, {name}State({parameters})(x) AS s FROM {SCRATCH}v GROUP BY g, part) GROUP BY g) AS m
            JOIN (SELECT g, quantileExact(0.99)(x) AS e FROM {SCRATCH}v GROUP BY g) AS exact USING g""")
        print(f"| {name} | {int(sizes[0]):,} B | {int(sizes[1]):,} B | {worst} % |")


VIEW = """SELECT project_id, event_type, dim.1 AS dim_set, dim.2 AS dim_value, toStartOfMinute(toDateTime(ts, 'UTC')) AS bucket,
    count() AS events, {users} AS users, sum(ifNull(value, 0)) AS value_sum, {quantiles} AS value_quantiles
    FROM {db}src ARRAY JOIN arrayPushFront(dims, ('', '')) AS dim GROUP BY project_id, event_type, dim_set, dim_value, bucket"""


def cost_of_states():
    print("\n### What a state costs: one view into a 1-minute rollup, 50,000-row blocks, two at a time\n")
    print("| users | quantiles | rows/s | bytes a rollup row |")
    print("|---|---|---|---|")
    block, bodies = 50_000, [call(rows(50_000, i * 50_000) + " FORMAT Native") for i in range(8)]
    dd, td = "quantilesDD(0.01, 0.5, 0.95, 0.99)", "quantilesTDigest(0.5, 0.95, 0.99)"
    for users, quantile in ((12, dd), (14, dd), (17, dd), (12, td), (12, None)):
        drop_scratch()
        call(f"CREATE TABLE {SCRATCH}src AS tallyhouse.events_in ENGINE = Null")
        call(f"""CREATE TABLE {SCRATCH}r (project_id LowCardinality(String), event_type LowCardinality(String),
            dim_set LowCardinality(String), dim_value String, bucket DateTime('UTC'),
            events SimpleAggregateFunction(sum, UInt64), users AggregateFunction(uniqCombined64({users}), UInt64),
            value_sum SimpleAggregateFunction(sum, Float64),
            value_quantiles {f'AggregateFunction({quantile}, Float64)' if quantile else 'SimpleAggregateFunction(sum, UInt64)'})
            ENGINE = AggregatingMergeTree ORDER BY (project_id, event_type, dim_set, dim_value, bucket)
            SETTINGS non_replicated_deduplication_window = 20000""")
        state = "toUInt64(0)" if not quantile else quantile.replace("(", "StateIf(", 1) + "(ifNull(value, 0), isNotNull(value))"
        view = VIEW.format(db=SCRATCH, users=f"uniqCombined64State({users})(user_hash)", quantiles=state)
        call(f"CREATE MATERIALIZED VIEW {SCRATCH}mv TO {SCRATCH}r AS {view}")
        speed = rate(f"{SCRATCH}src", "Native", bodies, block, 2)
        call(f"OPTIMIZE TABLE {SCRATCH}r FINAL")
        size = one(f"SELECT round(sum(data_compressed_bytes) / sum(rows)) FROM system.parts "
                   f"WHERE concat(database, '.', table) = '{SCRATCH}r' AND active")
        print(f"| uniqCombined64({users}) | {quantile.split('(')[0] if quantile else 'none'} | {speed:,.0f} | {size} |")


def blocks():
    print("\n### Block size and inserts at a time: Native into `tallyhouse.events_in`, all views\n")
    print("| rows a block | 1 at a time | 2 | 4 |")
    print("|---|---|---|---|")
    for block in (1_000, 5_000, 20_000, 65_536, 131_072):
        bodies = [call(rows(block, i * block) + " FORMAT Native") for i in range(max(8, min(40, 400_000 // block)))]
        cells = [f"{rate('tallyhouse.events_in', 'Native', bodies, block, parallel):,.0f}" for parallel in (1, 2, 4)]
        print(f"| {block:,} | " + " | ".join(cells) + " |")


def formats():
    print("\n### Format: into `tallyhouse.events_in`, all views, 65,536-row blocks, two at a time\n")
    print("| format | rows/s | ratio to Native | bytes a row |")
    print("|---|---|---|---|")
    block, native = 65_536, None
    columns = one("SELECT arrayStringConcat(groupArray(name), ', ') FROM (SELECT name FROM system.columns "
                  "WHERE database = 'tallyhouse' AND table = 'events_in' AND default_kind = '' ORDER BY position)")
    for form in ("Native", "ArrowStream", "RowBinary", "JSONEachRow"):
        bodies = [call(rows(block, i * block) + f" FORMAT {form}") for i in range(8)]
        speed = rate(f"tallyhouse.events_in ({columns})", form, bodies, block, 2)
        native = native or speed
        print(f"| {form} | {speed:,.0f} | {speed / native:.2f} | {sum(map(len, bodies)) / len(bodies) / block:.0f} |")


if __name__ == "__main__":
    for part in (distinct, quantiles, cost_of_states, blocks, formats):
        part()
    drop_scratch()
