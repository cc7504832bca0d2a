"""What does each reaction to drift save, and what does a false alarm cost?

Five streams of made-up concepts (a random network over ten numbers names the class, 5 % of the labels are wrong), in
batches of 128 through the trainer of the service, test then train; the concept changes every 10,000 records. On
`abrupt`, `partial`, `gradual` and `recurring` the shipped detector raises the alarms; on `none` nothing ever changes
and an alarm is forced every 10,000 records.

    none     alarms change nothing              boost    five times the rate for 4,096 records
    reset    a new model at once (bench only)   race     keep, rate_up, new_inputs, fresh and the last winner race:
                                                         4,096 records
    oracle   a new model at the very record of the change, and never else (bench only)
    alone    race without the last winner

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_drift_reaction.py run --seeds 0 1 2 --out runs.csv
    python tests/benchmarks/bench_drift_reaction.py table runs.csv

A run that stands in the file already is not made again, so it can be stopped and shared: `--part 0 2` does half.
"""

import argparse
import csv
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from number_batches import batch_of

from stream_trainer.contracts import Model
from stream_trainer.engine.boost import BoostOptions
from stream_trainer.engine.drift_monitor import DriftMonitor, DriftOptions
from stream_trainer.engine.race import RaceOptions
from stream_trainer.engine.race_desk import TwinOf
from stream_trainer.engine.reaction import Reaction
from stream_trainer.engine.trainer import Trainer
from stream_trainer.evaluation import Prequential
from stream_trainer.models import RiverModel, RiverOptions, TorchModel, TorchOptions
from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.types import Alarm, Batch, Detection, Direction

FEATURES, BATCH, NOISE = 10, 128, 0.05
CONCEPT_RECORDS, CONCEPTS, GRADUAL_RECORDS, FORCED_EVERY = 10_000, 3, 4_000, 10_000
SCHEMA = Schema(numbers=tuple(NumberFeature(name=f"x{i}") for i in range(FEATURES)), target=Target.binary("y"))
STREAMS = ("abrupt", "partial", "gradual", "recurring", "none")
POLICIES = ("none", "boost", "reset", "oracle", "alone", "race")
LEARNERS = ("torch:1.5e-3", "torch:5e-3", "river:linear_model.LogisticRegression")


def concept(rng: np.random.Generator, x_NF: np.ndarray) -> np.ndarray:
    """Classes by a random network, about half of each."""
    hidden = np.tanh(x_NF @ rng.normal(size=(FEATURES, 16)) + rng.normal(size=16))
    score_N = hidden @ rng.normal(size=16)
    return score_N > np.median(score_N)


def stream(kind: str, seed: int) -> Batch:
    """All records; the class of each follows the concept of its time."""
    rng = np.random.default_rng(seed)
    n = CONCEPT_RECORDS * CONCEPTS
    x_NF = rng.normal(size=(n, FEATURES))
    concepts = np.stack([concept(rng, x_NF) for _ in range(CONCEPTS)])
    if kind == "partial":  # in a quarter of the space, another one each time, the classes change places
        concepts[1:] = concepts[0]
        for k in range(1, CONCEPTS):
            concepts[k] ^= (x_NF[:, 2 * k] > 0) & (x_NF[:, 2 * k + 1] > 0)
    place_N = np.arange(n)
    number_N = place_N // CONCEPT_RECORDS
    if kind == "gradual":  # the new concept's share grows from 0 to 1 within 4,000 records
        share_N = (place_N % CONCEPT_RECORDS) / GRADUAL_RECORDS
        number_N = np.where(rng.random(n) < share_N, number_N, np.maximum(number_N - 1, 0))
    if kind == "recurring":  # two concepts take turns
        number_N = number_N % 2
    if kind == "none":
        number_N[:] = 0
    y_N = concepts[number_N, place_N] ^ (rng.random(n) < NOISE)
    return batch_of(x_NF, y_N)


def cut(whole: Batch) -> Iterator[Batch]:
    for start in range(0, len(whole), BATCH):
        yield whole.rows(slice(start, start + BATCH))


class Forced:
    """Alarms on a schedule, in place of the monitor."""

    def __init__(self, every_records: int) -> None:
        self.every_records, self.record = every_records, 0

    def observe(self, batch, verdicts):
        before, self.record = self.record, self.record + len(batch)
        if before // self.every_records == self.record // self.every_records:
            return ()
        claim = Detection(
            index=0, direction=Direction.UP, before=0, after=1, statistic=1, threshold=0, window_records=1
        )
        return (Alarm(signal="error", model="m", feature=None, record=self.record, detection=claim),)

    def look_inside(self, batch, models):
        return ()

    def renew(self, model):
        pass


class BlindReset:
    """What we do not ship: on an alarm, or at given records, a new model takes the place at once."""

    def __init__(self, model, twin_of, at_records=None) -> None:
        self.model, self.twin_of, self.at_records, self.record, self.resets = model, twin_of, at_records, 0, 0

    def predict(self, name, batch):
        return self.model.predict(batch)

    def react(self, batch, alarms):
        before, self.record = self.record, self.record + len(batch)
        due = bool(alarms) if self.at_records is None else any(before <= r < self.record for r in self.at_records)
        if due:
            self.resets += 1
            self.model.restore(self.twin_of("m", self.resets).capture())
        return ()


def twins(learner: str, seed: int) -> TwinOf:
    """`torch:RATE`, the shipped network at this base rate, or `river:CLASS` with its defaults."""
    kind, _, what = learner.partition(":")

    def twin_of(name: str, number: int) -> Model:
        if kind == "river":
            return RiverModel(SCHEMA, RiverOptions(estimator=f"river.{what}", seed=seed + 7919 * number))
        optimizer = {"stream_adamw": {"lr": float(what)}}
        return TorchModel(SCHEMA, TorchOptions(hidden=(64, 64), optimizer=optimizer, seed=seed + 7919 * number))

    return twin_of


def run(kind: str, policy: str, seed: int, learner: str) -> tuple[float, float, Counter]:
    """Error over the stream, over the 2,000 records after each change, and events."""
    twin_of = twins(learner, seed)
    model = twin_of("m", 0)
    changes = [] if kind == "none" else [CONCEPT_RECORDS * k for k in range(1, CONCEPTS)]
    reaction = {
        "none": lambda: None,
        "boost": lambda: Reaction({"m": model}, BoostOptions(), twin_of),
        "race": lambda: Reaction({"m": model}, RaceOptions(), twin_of),
        "alone": lambda: Reaction({"m": model}, RaceOptions(earlier=0), twin_of),
        "reset": lambda: BlindReset(model, twin_of),
        "oracle": lambda: BlindReset(model, twin_of, changes),
    }[policy]()
    monitor = DriftMonitor(DriftOptions(features="none"), SCHEMA, ["m"])
    drift = Forced(FORCED_EVERY) if kind == "none" else monitor
    trainer = Trainer({"m": model}, Prequential(SCHEMA.target, ["m"]), drift, perf_counter, reaction)
    errors, events = [], Counter()
    for batch in cut(stream(kind, seed)):
        reports, alarms, told = trainer.step(batch)
        errors.append(reports["m"].error * len(batch))
        events.update(f"{event.kind.value} {event.arm.value}" for event in told)
        events["alarm"] += len(alarms)
    window = 2_000 // BATCH
    after = [np.sum(errors[c // BATCH : c // BATCH + window]) / (window * BATCH) for c in changes]
    return float(np.sum(errors)) / (CONCEPT_RECORDS * CONCEPTS), float(np.mean(after or [np.nan])), events


FIELDS = ("stream", "learner", "policy", "seed", "error", "first_2000", "alarms", "events")


def make_runs(chosen: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    part, parts = chosen.part
    out: Path = chosen.out
    done = {tuple(row[field] for field in FIELDS[:4]) for row in rows([out])} if out.exists() else set()
    with out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not done:
            writer.writerow(FIELDS)
        wanted = itertools.product(chosen.policies, chosen.seeds, chosen.learners, chosen.streams)
        for i, (policy, seed, learner, kind) in enumerate(wanted):
            if i % parts != part or (kind, learner, policy, str(seed)) in done:
                continue
            if policy == "boost" and learner.startswith("river"):  # it has no rate to be turned up: the same as none
                continue
            error, first, events = run(kind, policy, seed, learner)
            alarms = events.pop("alarm", 0)
            told = ", ".join(f"{name} {count}" for name, count in sorted(events.items()))
            writer.writerow([kind, learner, policy, seed, f"{error:.6f}", f"{first:.6f}", alarms, told])
            file.flush()


def rows(paths: Iterable[Path]) -> list[dict[str, str]]:
    return [row for path in paths for row in csv.DictReader(path.open(newline=""))]


def table(chosen: argparse.Namespace) -> None:
    """Per stream and learner: error of each policy relative to none, and of the race relative to the best of the row.

    A policy that lacks a seed is left out; where `race` does, `alone` stands for it.
    """
    error: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in rows(chosen.files):
        cell = error.setdefault((row["stream"], row["learner"]), {}).setdefault(row["policy"], {})
        cell[int(row["seed"])] = float(row["error"])
    found = [policy for policy in POLICIES if any(policy in cells for cells in error.values())]
    print(
        "| stream | learner | seeds | error of none |",
        *(f"{policy} |" for policy in found[1:]),
        "race above the best |",
    )
    print("|---" * (len(found) + 4) + "|")
    for (kind, learner), cells in sorted(error.items(), key=lambda item: (STREAMS.index(item[0][0]), item[0][1])):
        seeds = sorted(cells["none"])
        base = np.array([cells["none"][seed] for seed in seeds])
        means = {policy: np.mean(list(cell.values())) for policy, cell in cells.items() if sorted(cell) == seeds}
        told = []
        for policy in found[1:]:
            if policy not in means:
                told.append("- |")
                continue
            share = 100 * (np.array([cells[policy][seed] for seed in seeds]) / base - 1)
            told.append(f"{share.mean():+.1f} % ± {share.std(ddof=1) / len(share) ** 0.5:.1f} |")
        best = min(means, key=means.get)
        raced = means.get("race", means.get("alone"))
        above = f"{100 * (raced / means[best] - 1):.1f} % ({best})" if raced is not None else "-"
        print(f"| {kind} | {learner} | {len(seeds)} | {base.mean():.4f} |", *told, above, "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("run")
    making.set_defaults(do=make_runs)
    making.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    making.add_argument("--learners", nargs="+", default=LEARNERS)
    making.add_argument("--streams", nargs="+", default=STREAMS)
    making.add_argument("--policies", nargs="+", default=POLICIES)
    making.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "OF"))
    making.add_argument("--out", type=Path, default=Path("drift_reaction.csv"))
    showing = commands.add_parser("table")
    showing.set_defaults(do=table)
    showing.add_argument("files", type=Path, nargs="+")
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
