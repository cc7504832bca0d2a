"""Permuted images through the service's own parts: does a race keep a network better than a new one, task after task?

The tasks of bench_plasticity.py, but learned by the network as shipped (inputs standardised, temperature) in batches of
16, watched by the shipped detector on its errors, with or without a reaction. Nobody is told when a task ends.

    none        alarms change nothing
    race        as shipped: keep, rate_up, new_inputs, fresh and the last winner race for 4,096 records
    without     the same race without new_inputs
    race_pull   race, and ten times the pull to the initial weights for 8,000 records after a confirmed drift
    adam        none, with Adam in the place of stream_adamw
    race_no_mean, none_no_mean    with `beta1: 0`, at 1e-3

First tasks, last tasks and fresh networks as in bench_plasticity.py; `regain`: records after a change until the mean
accuracy of the last tasks, in blocks of 250, reaches that of the fresh networks; `Adam's`: until it reaches that of
fresh networks which learn by Adam, of the same norm and seed: one level for all. One row of the CSV is one run.

    python tests/benchmarks/bench_plasticity_race.py run --out tests/benchmarks/plasticity_race_DATE.csv
    python tests/benchmarks/bench_plasticity_race.py table tests/benchmarks/plasticity_race_DATE.csv
"""

import itertools
import time
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from bench_plasticity import BATCH, HIDDEN, HOW_MUCH, PIXELS, Images, blocks_of, records_to
from bench_pull_race import WithoutNewInputs, counts_of
from number_batches import batch_of
from resumable import Results, describe_machine, run_or_table
from torch import Tensor

from stream_trainer.drift import build_error_signal
from stream_trainer.engine.race import RaceOptions
from stream_trainer.engine.reaction import Reaction
from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.schema import NumberFeature, Schema, Target, TargetKind
from stream_trainer.service.wiring import SEED_STRIDE
from stream_trainer.types import Batch, ReactionKind

TARGET = Target(name="garment", kind=TargetKind.CLASSES, classes=tuple("0123456789"))
SCHEMA = Schema(numbers=tuple(NumberFeature(name=f"p{i}") for i in range(PIXELS)), target=TARGET)
NORMS, BETWEEN = ("layer", "adaptive_batch_renorm", "none"), " / "  # BatchNorm the service refuses
REACTIONS: dict[str, RaceOptions | None] = {
    "none": None,
    "race": RaceOptions(),
    "without": RaceOptions(),
    "race_pull": RaceOptions(pull_factor=10, pull_records=8_000),
    "adam": None,
    "race_no_mean": RaceOptions(),
    "none_no_mean": None,
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was run: one row's key."""

    norm: str
    reaction: str
    tasks: int
    task_records: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    """What came out: accuracies as shares, records to regain a fresh network's, and what the races told."""

    first: float
    last: float
    fresh: float
    regain: float
    regain_fresh: float
    blocks: str  # accuracies of the last tasks, in blocks, of which `regain` is made
    events: str
    cpu_s: float


def batches(x: Tensor, y: Tensor) -> Iterator[Batch]:
    for x_NF, y_N in zip(x.numpy().reshape(-1, BATCH, PIXELS), y.numpy().reshape(-1, BATCH)):
        yield batch_of(x_NF, y_N)


def network(run: Run, seed: int) -> TorchModel:
    no_mean = {"stream_adamw": {"beta1": 0.0, "lr": 1e-3}} if run.reaction.endswith("no_mean") else "stream_adamw"
    optimizer = {"adam": {"lr": 1e-3}} if run.reaction == "adam" else no_mean
    return TorchModel(SCHEMA, TorchOptions(hidden=HIDDEN, norm=run.norm, optimizer=optimizer, seed=seed))


def twin_of(run: Run, number: int) -> TorchModel:
    return network(run, run.seed + SEED_STRIDE * number)


def learn_alone(model: TorchModel, x: Tensor, y: Tensor) -> Tensor:
    """Which records were right, (N,) bool, test then train."""
    right = []
    for batch in batches(x, y):
        right.append(model.predict(batch).argmax(axis=1) == batch.y_N)
        model.learn(batch)
    return torch.from_numpy(np.concatenate(right))


def learn_all(run: Run, images: Images) -> tuple[list[Tensor], Counter[str]]:
    """The same of every task, one after the other by one model, and the events of its reaction."""
    model, options, told = network(run, run.seed), REACTIONS[run.reaction], Counter[str]()
    if options is None:
        return [learn_alone(model, *images.task(number)) for number in range(run.tasks)], told
    reaction = Reaction({"m": model}, options, lambda name, number: twin_of(run, number))
    if run.reaction == "without":
        reaction._desks["m"] = WithoutNewInputs("m", model, options, lambda name, number: twin_of(run, number))
    signal, tasks = build_error_signal("m", TARGET), []
    for number in range(run.tasks):
        right = []
        for batch in batches(*images.task(number)):
            right.append(reaction.predict("m", batch).argmax(axis=1) == batch.y_N)
            for event in reaction.react(batch, signal.update((~right[-1]).astype(np.float64))):
                told[f"{event.kind.value} {event.arm.value}"] += event.kind is not ReactionKind.SUSPECT
            model.learn(batch)
        tasks.append(torch.from_numpy(np.concatenate(right)))
    return tasks, told


def measure(run: Run) -> Row:
    images, counted, started = Images(run.task_records, run.seed), max(1, run.tasks // 5), time.process_time()
    right, told = learn_all(run, images)
    lasts = range(run.tasks - counted, run.tasks)
    fresh = torch.stack([learn_alone(network(run, 1_000 + number), *images.task(number)) for number in lasts])
    level, blocks = float(fresh.double().mean()), blocks_of(torch.stack(right[-counted:]))
    return Row(
        **asdict(run),
        first=float(torch.cat(right[1 : 1 + counted]).double().mean()),
        last=float(torch.cat(right[-counted:]).double().mean()),
        fresh=level,
        regain=records_to(level, blocks),
        regain_fresh=records_to(level, blocks_of(fresh)),
        blocks=BETWEEN.join(f"{accuracy:.5f}" for accuracy in blocks),
        events=BETWEEN.join(f"{name} {count}" for name, count in sorted(told.items()) if count),
        cpu_s=time.process_time() - started,
    )


def table(path: Path) -> str:
    rows, found = list(Results(path, Run, Row)), defaultdict(list)
    for row in rows:
        found[row.norm, row.reaction, row.tasks, row.task_records].append(row)
    lines = [
        "# Permuted images, learned by the service's own parts",
        "",
        f"From `{path.name}` ({len(rows)} runs, {sum(row.cpu_s for row in rows) / 3600:.1f} CPU hours; "
        f"{describe_machine()}). What is measured, and how: `bench_plasticity_race.py`. Accuracies in %; last - fresh "
        "in points, with the standard error over seeds. Events of all seeds.",
        "",
        "| norm | reaction | tasks | seeds | first | last | fresh | last - fresh | regain | fresh | Adam's | events |",
        "|---" * 12 + "|",
    ]
    levels = {(row.norm, row.tasks, row.task_records, row.seed): row.fresh for row in rows if row.reaction == "adam"}
    for (norm, reaction, tasks, records), runs in sorted(found.items()):
        first, last, fresh = (
            100 * np.array([getattr(row, name) for row in runs]) for name in ("first", "last", "fresh")
        )
        error = (last - fresh).std(ddof=1) / len(runs) ** 0.5 if len(runs) > 1 else float("nan")
        regain, again = (np.mean([getattr(row, name) for row in runs]) for name in ("regain", "regain_fresh"))
        of_adam = [
            records_to(levels[place], map(float, row.blocks.split(BETWEEN)))
            for row in runs
            if (place := (norm, tasks, records, row.seed)) in levels
        ]
        told = sum((counts_of(row.events, BETWEEN) for row in runs), Counter[str]())
        lines.append(
            f"| {norm} | {reaction} | {tasks} x {records:,} | {len(runs)} | {first.mean():.1f} | {last.mean():.1f} "
            f"| {fresh.mean():.1f} | {(last - fresh).mean():+.1f} ± {error:.1f} | {regain:,.0f} | {again:,.0f} "
            f"| {np.mean(of_adam):,.0f} | {', '.join(f'{name} {count}' for name, count in told.most_common())} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    def run(chosen: Namespace) -> None:
        results = Results(chosen.out, Run, Row)
        for seed, reaction, norm in itertools.product(chosen.seeds, chosen.reactions, chosen.norms):
            key = Run(norm=norm, reaction=reaction, tasks=chosen.tasks, task_records=chosen.records, seed=seed)
            print(results.once(key, measure), flush=True)

    run_or_table(
        __doc__,
        run,
        table,
        **HOW_MUCH,
        norms={"nargs": "+", "default": list(NORMS), "choices": NORMS},
        reactions={"nargs": "+", "default": list(REACTIONS), "choices": list(REACTIONS)},
    )


if __name__ == "__main__":
    main()
