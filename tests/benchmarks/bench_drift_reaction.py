"""What does each reaction to drift save, and what does a false alarm cost?

Four streams of made-up concepts (a random network over ten numbers names the class, 5 % of the labels are wrong), in
batches of 64 through the trainer of the service, test then train. On `abrupt`, `partial` and `gradual` the shipped
detector raises the alarms; on `none` nothing ever changes and an alarm is forced every 10,000 records.

    none     alarms change nothing              boost    five times the rate for 4,096 records
    reset    a new model at once (bench only)   race     keep, rate_up and fresh race for 4,096 records
    oracle   a new model at the very record of the change, and never else (bench only)

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_drift_reaction.py --seeds 3
"""

import argparse
import platform
from collections import Counter
from collections.abc import Iterator
from datetime import date
from time import perf_counter

import numpy as np
import torch

from stream_trainer.engine.drift_monitor import DriftMonitor, DriftOptions
from stream_trainer.engine.race import RaceOptions
from stream_trainer.engine.reaction import BoostOptions, Reaction
from stream_trainer.engine.trainer import Trainer
from stream_trainer.evaluation import Prequential
from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.types import Alarm, Batch, Detection, Direction

FEATURES, BATCH, NOISE = 10, 64, 0.05
CONCEPT_RECORDS, CONCEPTS, GRADUAL_RECORDS, FORCED_EVERY = 20_000, 4, 5_000, 10_000
SCHEMA = Schema(numbers=tuple(NumberFeature(name=f"x{i}") for i in range(FEATURES)), target=Target.binary("y"))
STREAMS = ("abrupt", "partial", "gradual", "none")
POLICIES = ("none", "reset", "boost", "race", "oracle")


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
    if kind == "gradual":  # the new concept's share grows from 0 to 1 within 5,000 records
        share_N = (place_N % CONCEPT_RECORDS) / GRADUAL_RECORDS
        number_N = np.where(rng.random(n) < share_N, number_N, np.maximum(number_N - 1, 0))
    if kind == "none":
        number_N[:] = 0
    y_N = concepts[number_N, place_N] ^ (rng.random(n) < NOISE)
    return batch_of(x_NF.astype(np.float32), y_N.astype(np.int64))


def batch_of(x_NF: np.ndarray, y_N: np.ndarray) -> Batch:
    nothing = np.zeros((len(y_N), 0), np.int64)
    return Batch(
        x_NF=x_NF, missing_NF=None, category_NC=nothing, y_N=y_N, timestamp_ms_N=np.full(len(y_N), -1, np.int64)
    )


def cut(whole: Batch) -> Iterator[Batch]:
    for start in range(0, len(whole), BATCH):
        yield batch_of(whole.x_NF[start : start + BATCH], whole.y_N[start : start + BATCH])


class Forced:
    """Alarms on a schedule, in place of the monitor."""

    def __init__(self, every_records: int) -> None:
        self.every_records, self.record = every_records, 0

    def observe(self, batch, predictions, errors):
        before, self.record = self.record, self.record + len(batch)
        if before // self.every_records == self.record // self.every_records:
            return ()
        claim = Detection(
            index=0, direction=Direction.UP, before=0, after=1, statistic=1, threshold=0, window_records=1
        )
        return (Alarm(signal="error", model="m", feature=None, record=self.record, detection=claim),)


class BlindReset:
    """What we do not ship: on an alarm, or at given records, a new model takes the place at once."""

    def __init__(self, model, twin_of, at_records=None) -> None:
        self.model, self.twin_of, self.at_records, self.record, self.resets = model, twin_of, at_records, 0, 0

    def react(self, batch, predictions, alarms):
        before, self.record = self.record, self.record + len(batch)
        due = bool(alarms) if self.at_records is None else any(before <= r < self.record for r in self.at_records)
        if due:
            self.resets += 1
            self.model.restore(self.twin_of("m", self.resets).capture())
        return ()


def run(kind: str, policy: str, seed: int, rate: float, options: RaceOptions) -> tuple[float, float, Counter]:
    """Error over the stream, over the 2,000 records after each change, and events."""

    def twin_of(name: str, number: int) -> TorchModel:
        optimizer = {"stream_adamw": {"lr": rate}}
        return TorchModel(SCHEMA, TorchOptions(hidden=(64, 64), optimizer=optimizer, seed=seed + 7919 * number))

    model = twin_of("m", 0)
    changes = [] if kind == "none" else [CONCEPT_RECORDS * k for k in range(1, CONCEPTS)]
    reaction = {
        "none": lambda: None,
        "boost": lambda: Reaction({"m": model}, BoostOptions(), twin_of),
        "race": lambda: Reaction({"m": model}, options, twin_of),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--streams", nargs="+", default=STREAMS)
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--records", type=int, default=RaceOptions().records)
    parser.add_argument("--margin-min", type=float, default=RaceOptions().margin_min)
    parser.add_argument("--statistic-min", type=float, default=RaceOptions().statistic_min)
    parser.add_argument("--cooldown-records", type=int, default=RaceOptions().cooldown_records)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    options = RaceOptions(
        records=chosen.records,
        margin_min=chosen.margin_min,
        statistic_min=chosen.statistic_min,
        cooldown_records=chosen.cooldown_records,
    )
    print(f"{date.today()}, {platform.machine()}, torch {torch.__version__}, {chosen.seeds} seeds, {options}\n")
    print("| stream | rate | policy | error | relative to none | first 2,000 after | alarms | events |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in chosen.streams:
        for rate in chosen.rates:
            base: list = []
            for policy in chosen.policies:
                runs = [run(kind, policy, seed, rate, options) for seed in range(chosen.seeds)]
                base = base or runs
                share = np.array([a[0] / b[0] - 1 for a, b in zip(runs, base)])
                spread = share.std(ddof=1) / len(share) ** 0.5 if len(share) > 1 else float("nan")
                events = sum((r[2] for r in runs), Counter())
                alarms = events.pop("alarm", 0)
                told = ", ".join(f"{name} {count}" for name, count in sorted(events.items())) or "-"
                first = np.mean([r[1] for r in runs])
                print(
                    f"| {kind} | {rate:g} | {policy} | {np.mean([r[0] for r in runs]):.4f} | {share.mean():+.1%} "
                    f"± {spread:.1%} | {'-' if np.isnan(first) else f'{first:.3f}'} | {alarms} | {told} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
