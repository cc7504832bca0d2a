"""Inside a real race: what is an arm with a new first layer worth, and a harder pull after a confirmed drift?

64 inputs around one of 40 made-up prototypes, four to each of ten classes; four tasks of 10,240 records in batches of
128, test then train, the shipped network at its shipped rate. Between tasks all inputs change places (`total`), a
quarter of them does (`partial`), or nothing changes (`stationary`). An alarm comes 256 records after each change, on
`stationary` a false one; the race of the service decides what it is worth.

    race          keep, rate_up, new_inputs and fresh
    without       race without new_inputs
    pull 10x      race; after a confirmed drift ten times the pull to the initial weights for 1,024 records
    pull 1000x    race; after a confirmed drift a thousand times the pull for 256 records
    pull_hard     race with one more arm (bench only): a copy pulled 1,000 times as hard for the first 256 records, that
                  in the first half of the race also learns with five times the rate, as rate_up does

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_pull_race.py run --out pull_race.csv
    python tests/benchmarks/bench_pull_race.py table pull_race.csv

A run that stands in the file already is not made again.
"""

import argparse
import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from prototypes import INPUTS, SCHEMA, batches_around, draw_prototypes

from stream_trainer.engine.race import RaceOptions
from stream_trainer.engine.race_desk import RaceDesk
from stream_trainer.engine.reaction import Reaction
from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.types import Alarm, Batch, Detection, Direction, RaceArm

BATCH, TASK_RECORDS, TASKS, ALARM_AFTER = 128, 10_240, 4, 256
HARD_FACTOR, HARD_RECORDS = 1000.0, 256
HARD = RaceArm.EARLIER_3  # the arm that is not shipped borrows a name that is free: no former winners race here
STREAMS = ("total", "partial", "stationary")
POLICIES = {
    "race": RaceOptions(earlier=0),
    "without": RaceOptions(earlier=0),
    "pull 10x": RaceOptions(earlier=0, pull_factor=10.0, pull_records=1_024),
    "pull 1000x": RaceOptions(earlier=0, pull_factor=1000.0, pull_records=256),
    "pull_hard": RaceOptions(earlier=0),
}
ALARM = Alarm(
    signal="error",
    model="m",
    feature=None,
    record=0,
    detection=Detection(index=0, direction=Direction.UP, before=0, after=1, statistic=1, threshold=0, window_records=1),
)


class WithoutNewInputs(RaceDesk):
    """The race as it was before there was that arm."""

    def _challengers(self):
        return {arm: model for arm, model in super()._challengers().items() if arm is not RaceArm.NEW_INPUTS}


class PulledHard(RaceDesk):
    """A race with one more arm: a copy of the live model, pulled hard at first."""

    def _challengers(self):
        arms = super()._challengers()
        arms[HARD] = self._twin_of("m", 0)
        arms[HARD].restore(self._model.capture())
        arms[HARD].scale_pull(HARD_FACTOR)
        arms[HARD].scale_rate(self._options.rate_factor)
        return arms

    def _go_on(self, batch):
        race = self._race
        events = super()._go_on(batch)
        if race._records >= HARD_RECORDS:
            race.arms[HARD].scale_pull(1.0)
        race.arms[HARD].scale_rate(dict(self._raised(race.progress))[RaceArm.RATE_UP])
        return events


DESKS = {"without": WithoutNewInputs, "pull_hard": PulledHard}


def stream(kind: str, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    prototypes = draw_prototypes(rng)
    order = np.arange(INPUTS)
    for _ in range(TASKS):
        moved = rng.choice(INPUTS, size={"total": INPUTS, "partial": 16, "stationary": 0}[kind], replace=False)
        order[moved] = order[rng.permutation(moved)]
        yield from batches_around(prototypes, order, rng, batch=BATCH, batches=TASK_RECORDS // BATCH)


def run(kind: str, policy: str, seed: int) -> tuple[float, Counter]:
    """Share of wrong answers after the first task, in per cent, and what the race told."""

    def twin_of(name: str, number: int) -> TorchModel:
        return TorchModel(SCHEMA, TorchOptions(hidden=(64, 64), seed=seed + 7919 * number))

    model, options = twin_of("m", 0), POLICIES[policy]
    reaction = Reaction({"m": model}, options, twin_of)
    if policy in DESKS:
        reaction._desks["m"] = DESKS[policy]("m", model, options, twin_of)
    wrong, events = [], Counter()
    for step, batch in enumerate(stream(kind, seed)):
        answer = reaction.predict("m", batch).argmax(axis=1)
        wrong.append(float((answer != batch.y_N).mean()))
        alarms = [ALARM] if step * BATCH >= TASK_RECORDS and step * BATCH % TASK_RECORDS == ALARM_AFTER else []
        for event in reaction.react(batch, alarms):
            arm = "pull_hard" if event.arm is HARD else event.arm.value
            events[f"{event.kind.value} {arm}"] += 1
        model.learn(batch)
    return 100 * float(np.mean(wrong[TASK_RECORDS // BATCH :])), events


def make_runs(chosen: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    out: Path = chosen.out
    done = {(row["stream"], row["policy"], row["seed"]) for row in rows(out)} if out.exists() else set()
    with out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not done:
            writer.writerow(["stream", "policy", "seed", "error", "events"])
        for seed in chosen.seeds:
            for kind in STREAMS:
                for policy in chosen.policies:
                    if (kind, policy, str(seed)) not in done:
                        error, events = run(kind, policy, seed)
                        told = ", ".join(f"{name} {count}" for name, count in sorted(events.items()))
                        writer.writerow([kind, policy, seed, f"{error:.4f}", told])
                        file.flush()


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


def counts_of(events: str, between: str = ", ") -> Counter[str]:
    """Of "confirm fresh 2, rollback keep 1"."""
    told = (event.rpartition(" ") for event in events.split(between) if event)
    return Counter({name: int(count) for name, _, count in told})


def table(chosen: argparse.Namespace) -> None:
    """Error in per cent, and the paired difference to the race as shipped, in points."""
    error: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    confirmed: defaultdict[tuple[str, str], Counter] = defaultdict(Counter)
    for row in rows(chosen.file):
        key = row["stream"], row["policy"]
        error[key][row["seed"]] = float(row["error"])
        confirmed[key] += counts_of(row["events"])
    print("| stream | policy | seeds | error, % | against race, points | events of all seeds |")
    print("|---|---|---|---|---|---|")
    for key, cells in error.items():
        gain = np.array([value - error[key[0], "race"][seed] for seed, value in cells.items()])
        spread = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
        told = ", ".join(f"{name} {count}" for name, count in sorted(confirmed[key].items()) if "suspect" not in name)
        print(
            f"| {' | '.join(key)} | {len(gain)} | {np.mean(list(cells.values())):.2f} "
            f"| {gain.mean():+.2f} ± {spread:.2f} | {told} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("run")
    making.set_defaults(do=make_runs)
    making.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    making.add_argument("--policies", nargs="+", default=list(POLICIES))
    making.add_argument("--out", type=Path, default=Path("pull_race.csv"))
    showing = commands.add_parser("table")
    showing.set_defaults(do=table)
    showing.add_argument("file", type=Path)
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
