"""Are the signals that may be asked for silent while nothing changes, and do they speak when something does?

    OMP_NUM_THREADS=1 nice -n 15 python tests/benchmarks/bench_drift_label_free.py run --seeds 0 1 2 3 --out runs.csv
    python tests/benchmarks/bench_drift_label_free.py table runs.csv

The default network learns each stream in batches of 256 and every signal watches, error and features beside the ones
that need no labels. Steady: one concept of each generator, and made-up concepts (a random network over ten numbers
names the class, 5 % of the labels are wrong) with independent inputs, with inputs that are alike for some hundred
records, and with a mean that swings by half a spread within 50,000: 300,000 records each. Changes: 60,000 records, then
the change, then 10,000 in which the first alarm counts. A run that stands in the file already is not made again.
"""

import argparse
import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from number_batches import batch_of
from scipy.signal import lfilter

from stream_trainer.drift import (
    FeatureSignal,
    LabelSignal,
    PredictionSignal,
    build_confidence_signal,
    build_error_signal,
    build_norm_signal,
)
from stream_trainer.drift.evaluate import CONCEPTS, Table, piecewise
from stream_trainer.evaluation.outcomes import class_verdict
from stream_trainer.models import TorchOptions, build_model
from stream_trainer.schema import NumberFeature, Schema, Target

FEATURES, BATCH, NOISE, STEADY_RECORDS, BEFORE, HORIZON = 10, 256, 0.05, 300_000, 60_000, 10_000
SCHEMA = Schema(numbers=tuple(NumberFeature(name=f"x{i}") for i in range(FEATURES)), target=Target.binary("y"))
STEADY = ("independent", "alike for 100", "seasonal", *sorted(CONCEPTS))
CHANGES = ("one mean +1", "one mean +3", "class prior x9", "rotation", "label swap", "new concept")
FIELDS = ("stream", "seed", "signal", "records", "false", "delay")


def concept(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    hidden, bias, out = rng.normal(size=(FEATURES, 16)), rng.normal(size=16), rng.normal(size=16)

    def score(x_NF: np.ndarray) -> np.ndarray:
        return np.tanh(x_NF @ hidden + bias) @ out

    middle = np.median(score(rng.normal(size=(4000, FEATURES))))
    return lambda x_NF: score(x_NF) > middle


def steady(kind: str, seed: int) -> Table:
    if kind in CONCEPTS:
        return replace(
            piecewise(replace(CONCEPTS[kind], order=CONCEPTS[kind].order[:1]), STEADY_RECORDS, seed), changes=()
        )
    rng = np.random.default_rng(seed)
    names = concept(rng)
    x_NF = rng.normal(size=(STEADY_RECORDS, FEATURES))
    if kind == "alike for 100":  # half-life of what one record shares with the next ones
        keep = 0.5 ** (1 / 100)
        x_NF = lfilter([math.sqrt(1 - keep * keep)], [1, -keep], x_NF, axis=0)
    if kind == "seasonal":
        x_NF[:, 0] += 0.5 * np.sin(2 * np.pi * np.arange(STEADY_RECORDS) / 50_000)
    return table_of(kind, x_NF, names(x_NF) ^ (rng.random(STEADY_RECORDS) < NOISE), ())


def changed(kind: str, seed: int) -> Table:
    rng = np.random.default_rng(1000 + seed)
    names, n = concept(rng), BEFORE + HORIZON
    x_NF, late_N = rng.normal(size=(n, FEATURES)), np.arange(n) >= BEFORE
    y_N = names(x_NF)
    if kind.startswith("one mean"):
        x_NF[late_N, 0] += int(kind[-1])
        y_N = names(x_NF)
    elif kind == "rotation":
        x_NF[late_N] = x_NF[late_N] @ np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0]
    elif kind == "label swap":
        y_N = y_N ^ late_N
    elif kind == "new concept":
        y_N = np.where(late_N, concept(rng)(x_NF), y_N)
    elif kind == "class prior x9":
        rows = np.flatnonzero(late_N)
        weight_N = np.where(y_N[rows], 9.0, 1.0)
        drawn = rng.choice(rows, size=len(rows), p=weight_N / weight_N.sum())
        x_NF[rows], y_N[rows] = x_NF[drawn], y_N[drawn]
    return table_of(kind, x_NF, y_N ^ (rng.random(n) < NOISE), (BEFORE,))


def table_of(name: str, x_NF: np.ndarray, y_N: np.ndarray, changes: tuple[int, ...]) -> Table:
    return Table(name=name, schema=SCHEMA, records=batch_of(x_NF, y_N), changes=changes)


def alarms(table: Table, seed: int) -> dict[str, list[int]]:
    """The records at which each signal spoke."""
    model, target = build_model(table.schema, "torch", TorchOptions(seed=seed)), table.schema.target
    errors = {"error": build_error_signal("m", target), "error: own_past": build_error_signal("m", target, "own_past")}
    features = FeatureSignal(table.schema)
    predictions, labels = PredictionSignal("m", target), LabelSignal(target)
    doubts = {
        "confidence: own_past": build_confidence_signal("m", target, "own_past"),
        "confidence: weighted_adwin": build_confidence_signal("m", target),
        "confidence: weighted_adwin, min_effect .03": build_confidence_signal("m", target, min_effect=0.03),
    }
    norms = {
        "norms: strain": build_norm_signal("m"),
        "norms: strain, ratio_min 2": build_norm_signal("m", ratio_min=2.0),
    }
    told: dict[str, list[int]] = {name: [] for name in (*errors, "features", "labels", "predictions", *doubts, *norms)}
    for start in range(0, len(table), BATCH):
        batch = table.records.rows(slice(start, start + BATCH))
        verdict = class_verdict(batch.y_N, model.predict(batch))
        model.learn(batch)
        found = {
            **{name: signal.update(verdict.error_N) for name, signal in errors.items()},
            "features": features.update(batch),
            "labels": labels.update(batch.y_N),
            "predictions": predictions.update(verdict.said_N),
            **{name: signal.update(verdict.doubt_N) for name, signal in doubts.items()},
            **{name: signal.update(len(batch), model.norm_drift) for name, signal in norms.items()},  # type: ignore[attr-defined]
        }
        for name, spoken in found.items():
            told[name] += [start + len(batch)] * bool(spoken)  # several columns or layers at once are one event
    return told


def make_runs(chosen: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    out: Path = chosen.out
    done = {(row["stream"], row["seed"]) for row in csv.DictReader(out.open(newline=""))} if out.exists() else set()
    with out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not done:
            writer.writerow(FIELDS)
        for seed in chosen.seeds:
            for kind in (*CHANGES, *STEADY):
                if (kind, str(seed)) in done:
                    continue
                table = steady(kind, seed) if kind in STEADY else changed(kind, seed)
                change = table.changes[0] if table.changes else len(table)
                for name, records in alarms(table, seed).items():
                    after = [record - change for record in records if record > change]
                    n_false = sum(record <= change for record in records)
                    writer.writerow([kind, seed, name, change, n_false, after[0] if after else ""])
                file.flush()


def show(chosen: argparse.Namespace) -> None:
    """False alarms per 100,000 records of each steady stream, and what of each change was found, how soon."""
    rows = [row for path in chosen.files for row in csv.DictReader(path.open(newline=""))]
    signals = list(dict.fromkeys(row["signal"] for row in rows))
    print("| signal |", " | ".join(STEADY), "| before the changes | all |")
    print("|---" * (len(STEADY) + 3) + "|")
    for signal in signals:
        own = [row for row in rows if row["signal"] == signal]
        groups = [*([kind] for kind in STEADY), CHANGES, (*STEADY, *CHANGES)]
        told = []
        for group in groups:
            some = [row for row in own if row["stream"] in group]
            records, n_false = (sum(int(row[field]) for row in some) for field in ("records", "false"))
            told.append(f"{1e5 * n_false / records:.2f}" if records else "-")
        print(f"| {signal} |", " | ".join(told), "|")
    first = [row for row in rows if row["signal"] == signals[0]]
    print(f"\n{sum(int(row['records']) for row in first):,} records without a change.\n")
    print("| signal |", " | ".join(CHANGES), "|")
    print("|---" * (len(CHANGES) + 1) + "|")
    for signal in signals:
        told = []
        for kind in CHANGES:
            delays = [row["delay"] for row in rows if row["signal"] == signal and row["stream"] == kind]
            found = [int(delay) for delay in delays if delay]
            told.append(f"{len(found)} of {len(delays)}" + (f", {np.median(found):,.0f}" if found else ""))
        print(f"| {signal} |", " | ".join(told), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("run")
    making.set_defaults(do=make_runs)
    making.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    making.add_argument("--out", type=Path, default=Path("drift_label_free.csv"))
    showing = commands.add_parser("table")
    showing.set_defaults(do=show)
    showing.add_argument("files", type=Path, nargs="+")
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
