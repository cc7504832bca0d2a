"""Do batches cost delay, and does the shipped setting stay silent? Weighted ADWIN against River's, PageHinkley, DDM.

Run: OMP_NUM_THREADS=1 python tests/benchmarks/bench_drift_detection.py [--quick]
The output is committed beside this file as drift_detection_cpu_DATE.md.
Delays are in records until the detection is told, at the end of its batch. Speeds take turns in one process on one
thread; the machine is shared, so read them as ratios.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from stream_trainer.contracts import DriftDetector
from stream_trainer.drift import HistogramOptions, NoDetector, build_detector
from stream_trainer.drift.bins import NumberBins
from stream_trainer.drift.evaluate import (
    EveryK,
    Oracle,
    Verdict,
    autocorrelated_errors,
    errors_with_changes,
    judge,
    losses_with_changes,
    seasonal_errors,
)
from stream_trainer.drift.histograms import Histograms

HORIZON = 60_000
BARE = {"delta": 0.002, "min_effect": 0.0, "refractory_records": 0}  # River's own confidence, nothing on top
CHANGES = [(0.12, 5_000), (0.12, 100_000), (0.15, 5_000), (0.15, 100_000), (0.30, 5_000), (0.30, 100_000)]
ROWS: list[tuple[str, str, dict, int]] = [
    ("river adwin, δ .002", "adwin", {}, 1),
    ("river page_hinkley", "page_hinkley", {}, 1),
    ("river ddm", "ddm", {}, 1),
    ("weighted_adwin, δ .002, batch 32", "weighted_adwin", BARE, 32),
    ("weighted_adwin, δ .002, batch 256", "weighted_adwin", BARE, 256),
    ("weighted_adwin, δ .002, batch 1024", "weighted_adwin", BARE, 1024),
    ("weighted_adwin as shipped, batch 32", "weighted_adwin", {}, 32),
    ("weighted_adwin as shipped, batch 256", "weighted_adwin", {}, 256),
    ("weighted_adwin as shipped, batch 1024", "weighted_adwin", {}, 1024),
    ("cusum as shipped, batch 256", "cusum", {}, 256),
]


def shown(verdict: Verdict) -> str:
    missed = f" ({verdict.n_missed} missed)" if verdict.n_missed else ""
    if math.isnan(verdict.delay_median):
        return f"–{missed}"
    return f"{verdict.delay_median:,.0f} / {verdict.delay_p95:,.0f}{missed}"


def table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def delays(seeds: int) -> None:
    print(f"## Delay: median / p95 in records over {seeds} seeds, errors of .10 becoming p, horizon {HORIZON:,}\n")
    print("F = alarms outside the horizon per 100,000 stable records, two-sided alarms included.\n")
    rows = []
    for label, name, options, batch in ROWS:
        row, false, stable = [label], 0, 0
        for p, before in CHANGES:
            streams = [errors_with_changes((before, 0.1), (HORIZON, p), seed=seed) for seed in range(seeds)]
            verdict = judge(
                lambda _, name=name, options=options: build_detector(name, **options),
                streams, batch_records=batch, horizon_records=HORIZON,
            )  # fmt: skip
            row.append(shown(verdict))
            false, stable = false + verdict.n_false, stable + verdict.stable_records
        rows.append([*row, f"{1e5 * false / stable:.2f}"])
    for label, build in (
        ("never", lambda stream: NoDetector()),
        ("every 1,000", lambda stream: EveryK(1000)),
        ("oracle", lambda stream: Oracle(stream.changes)),
    ):
        pairs = [errors_with_changes((before, 0.1), (HORIZON, p), seed=0) for p, before in CHANGES]
        verdicts = [judge(build, [stream], batch_records=32, horizon_records=HORIZON) for stream in pairs]
        false = 1e5 * sum(v.n_false for v in verdicts) / sum(v.stable_records for v in verdicts)
        rows.append([label, *map(shown, verdicts), f"{false:.2f}"])
    table(["detector", *(f"→{p:.2f} after {before // 1000}k" for p, before in CHANGES), "F"], rows)


def losses(seeds: int) -> None:
    print(f"## Regression: absolute errors, standard deviation 1 becoming s, after 20k records, {seeds} seeds\n")
    rows = []
    for label, name, options, batch in [
        ("river adwin, δ .002", "adwin", {}, 1),
        ("river page_hinkley", "page_hinkley", {}, 1),
        ("weighted_adwin, value_max automatic, batch 256", "weighted_adwin", {"value_max": None}, 256),
        ("cusum as shipped, batch 256", "cusum", {}, 256),
    ]:
        verdicts = [
            judge(
                lambda _, name=name, options=options: build_detector(name, **options),
                [losses_with_changes((20_000, 1.0), (20_000, sd), seed=seed) for seed in range(seeds)],
                batch_records=batch, horizon_records=20_000,
            )
            for sd in (1.1, 1.25, 2.0)
        ]  # fmt: skip
        rows.append([label, *map(shown, verdicts), str(sum(v.n_false for v in verdicts))])
    table(["detector", "s = 1.1", "s = 1.25", "s = 2", "false"], rows)


def silence(millions: int) -> None:
    print("## False alarms: weighted_adwin as shipped (24 h at 1,000 records/s), and δ .002 beside it, batch 8192\n")
    rows = []
    for p in (0.02, 0.1, 0.3):
        for label, options, n in (
            ("as shipped", {}, millions),
            ("δ .002, two-sided", {**BARE, "direction": "both"}, millions // 4),
        ):
            detector, rng, told = build_detector("weighted_adwin", **options), np.random.default_rng(11), 0
            for _ in range(n * 1_000_000 // 8192):
                told += len(detector.update((rng.random(8192, dtype=np.float32) < p).astype(np.float32)))
            tests = n * 1e6 / 32
            allowed = tests * detector.options.delta_per_test  # type: ignore[attr-defined]
            rows.append([f"{p}", label, f"{n:,} million", str(told), f"{allowed:,.2f}"])
    table(["error rate", "setting", "records", "alarms", "bound: tests × δ"], rows)


def controls(n: int) -> None:
    print(f"## Streams that move without changing: alarms per 100,000 records, {n:,} records each, error rate .10\n")
    streams = [
        autocorrelated_errors(n, rate=0.1, spread=0.005, seed=1),
        autocorrelated_errors(n, rate=0.1, spread=0.02, seed=2),
        seasonal_errors(n, rate=0.1, amplitude=0.005, seed=3),
        seasonal_errors(n, rate=0.1, amplitude=0.02, seed=4),
    ]
    rows = []
    for label, name, options, batch in ROWS[:3] + ROWS[4:5] + ROWS[7:8] + ROWS[9:]:
        verdicts = [
            judge(lambda _, name=name, options=options: build_detector(name, **options), [stream],
                  batch_records=batch, horizon_records=HORIZON)
            for stream in streams
        ]  # fmt: skip
        rows.append([label, *(f"{v.false_per_100k:.2f}" for v in verdicts)])
    table(["detector", *(stream.name.removeprefix("control: ") for stream in streams)], rows)


def speed(rounds: int) -> None:
    print(f"## Speed: million records/s, median of {rounds} turns (best turn)\n")
    values_N = errors_with_changes((262_144, 0.1), seed=5).values_N
    x_NF = np.random.default_rng(6).standard_normal((65_536, 16), dtype=np.float32)
    turns: dict[tuple[str, int], Callable[[], int]] = {}
    for name, options in (("adwin", {}), ("page_hinkley", {}), ("ddm", {}), ("cusum", {}), ("weighted_adwin", {})):
        for batch in (32, 256, 1024):
            n = 16_384 if name in ("adwin", "page_hinkley", "ddm") else 512 * batch if batch < 1024 else 262_144
            turns[name, batch] = partial(feed, build_detector(name, **options), values_N[:n], batch)
    for batch in (32, 256, 1024):
        turns["psi of 16 features", batch] = partial(count, Histograms(NumberBins(16), HistogramOptions()), x_NF, batch)
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in turns}
    for _ in range(rounds):
        for key, turn in turns.items():
            start = time.perf_counter()
            n = turn()
            rates[key].append(n / (time.perf_counter() - start) / 1e6)
    names = list(dict.fromkeys(name for name, _ in turns))
    table(
        ["detector", "batch 32", "batch 256", "batch 1024"],
        [
            [name, *(f"{statistics.median(rates[name, b]):.2f} ({max(rates[name, b]):.2f})" for b in (32, 256, 1024))]
            for name in names
        ],
    )


def feed(detector: DriftDetector, values_N: np.ndarray, batch: int) -> int:
    for start in range(0, len(values_N), batch):
        detector.update(values_N[start : start + batch])
    return len(values_N)


def count(histograms: Histograms, x_NF: np.ndarray, batch: int) -> int:
    """Counting and, every 64 records or every batch, comparing: what FeatureSignal does."""
    n = min(256 * batch, len(x_NF))
    for start in range(0, n, batch):
        histograms.update(x_NF[start : start + batch])
        if start % max(64, batch) == 0:
            histograms.scores()
    return n


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    delays(3 if quick else 10)
    losses(3 if quick else 10)
    controls(100_000 if quick else 1_000_000)
    silence(4 if quick else 100)
    speed(3 if quick else 9)
