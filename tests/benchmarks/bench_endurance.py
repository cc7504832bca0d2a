"""Does a small network still learn, and as fast, after 1e8 records? Dead units, rank, step time and error on the way.

The stream, made up in memory: 16 numbers, a binary label, the side of a hyperplane, 10 % of the labels wrong. The
hyperplane turns for ever, and every million records it jumps to another one, so there is always something to learn.
The model is the shipped one with its defaults, but for pull and rate if given; batches of 1,024, test then train. One
row of the CSV is one million records: error (share of wrong classes, predicted before learned; the best possible is
.1), CPU time of a step, and the signs of plasticity as exported. A checkpoint beside the CSV after every row: it may be
stopped and goes on bit for bit.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_endurance.py run --out endurance_DATE.csv --records 100000000
    python tests/benchmarks/bench_endurance.py table endurance_DATE.csv
"""

import csv
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from number_batches import batch_of
from resumable import run_or_table
from safetensors.torch import load_file, save_file

from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.types import Batch, State

FEATURES, RECORDS, ROW_BATCHES, WRONG, SEED = 16, 1_024, 977, 0.1, 5
SCHEMA = Schema(numbers=tuple(NumberFeature(name=f"x{i}") for i in range(FEATURES)), target=Target.binary("y"))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One million records (977 batches)."""

    records: int  # by then
    error: float
    error_at_end: float  # of the last tenth: what is left of the jump by then
    step_cpu_ms: float  # median of predict + learn
    dead: float  # mean over activations
    dormant: float
    effective_rank: float
    stable_rank: float  # mean over weights, as the next two
    weight_ratio: float
    update_ratio: float


def batch(number: int) -> Batch:
    """The stream is a function of the number of the batch, so it can be entered anywhere."""
    rng = np.random.default_rng([SEED, number])
    jump = np.random.default_rng([SEED + 1, number // ROW_BATCHES])
    start_F, end_F = jump.standard_normal((2, FEATURES))
    way = number % ROW_BATCHES / ROW_BATCHES
    x_NF = rng.standard_normal((RECORDS, FEATURES), dtype=np.float32)
    y_N = (x_NF @ (start_F * (1 - way) + end_F * way) > 0) ^ (rng.random(RECORDS) < WRONG)
    return batch_of(x_NF, y_N)


def one_row(model: TorchModel, number: int) -> Row:
    errors, seconds = [], []
    for made in map(batch, range(number * ROW_BATCHES, (number + 1) * ROW_BATCHES)):
        started = time.process_time()
        predicted = model.predict(made).argmax(axis=1)
        model.learn(made)
        seconds.append(time.process_time() - started)
        errors.append(float((predicted != made.y_N).mean()))
    layers = model.plasticity().values()

    def mean(name: str) -> float:
        return float(np.mean([value for value in (getattr(layer, name) for layer in layers) if value is not None]))

    return Row(
        records=(number + 1) * ROW_BATCHES * RECORDS,
        error=float(np.mean(errors)),
        error_at_end=float(np.mean(errors[-ROW_BATCHES // 10 :])),
        step_cpu_ms=1e3 * float(np.median(seconds)),
        dead=mean("dead"),
        dormant=mean("dormant"),
        effective_rank=mean("effective_rank"),
        stable_rank=mean("stable_rank"),
        weight_ratio=mean("weight_ratio"),
        update_ratio=mean("update_ratio"),
    )


def run(path: Path, records: int, pull: float, lr: float) -> None:
    options = TorchOptions(optimizer={"stream_adamw": {"pull_horizon_records": pull, "lr": lr}})
    rows, model = read(path), TorchModel(SCHEMA, options)
    memory = path.with_suffix(".safetensors")
    if rows:
        saved = json.loads(memory.with_suffix(".json").read_text())
        if saved["rows"] != len(rows):
            raise SystemExit(
                f"{memory.name} is of {saved['rows']} rows, {path.name} has {len(rows)}; remove the newest."
            )
        model.restore(State(arrays=load_file(memory), values=saved["values"]))
    for number in range(len(rows), -(-records // (ROW_BATCHES * RECORDS))):
        row = one_row(model, number)
        save(model.capture(), memory, number + 1)
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
            if number == 0:
                writer.writeheader()
            writer.writerow({key: round(v, 6) if isinstance(v, float) else v for key, v in asdict(row).items()})
        print(row, flush=True)


def save(state: State, path: Path, rows: int) -> None:
    arrays = {name: torch.as_tensor(array).contiguous() for name, array in state.arrays.items()}
    for target, write in (
        (path, lambda at: save_file(arrays, at)),
        (path.with_suffix(".json"), lambda at: at.write_text(json.dumps({"rows": rows, "values": state.values}))),
    ):
        new = target.with_suffix(".new")
        write(new)
        os.replace(new, target)


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Row(**{field.name: field.type(line[field.name]) for field in fields(Row)})  # type: ignore[operator]
            for line in csv.DictReader(file)
        ]


def table(path: Path) -> str:
    rows = read(path)
    first, last, second = rows[0], rows[-1], rows[min(1, len(rows) - 1)]
    lines = [
        "# A small network after many records",
        "",
        f"From `{path.name}`: {last.records:,} records of the 1e8 that the test asks for ({platform.machine()}, one "
        f"thread, torch {torch.__version__}, a machine shared with other work: step times are CPU time). What is "
        "measured, and how: `bench_endurance.py`. The hyperplanes of two millions are not equally hard to follow, so "
        "errors of single rows differ by that; over the last and the first ten they are means.",
        "",
        "| | first million | second | last | last over first |",
        "|---|---|---|---|---|",
    ]
    for field in fields(Row)[1:]:
        values = [getattr(row, field.name) for row in (first, second, last)]
        over = f"{values[2] / values[0]:.2f}" if values[0] else ""
        lines.append(f"| {field.name} | " + " | ".join(f"{value:.4g}" for value in values) + f" | {over} |")
    tens = min(10, len(rows) // 2)
    if tens:
        early, late = (float(np.mean([row.error for row in part])) for part in (rows[:tens], rows[-tens:]))
        lines += ["", f"Mean error of the first {tens} millions {early:.4f}, of the last {tens} {late:.4f}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    run_or_table(
        __doc__,
        lambda chosen: run(chosen.out, chosen.records, chosen.pull, chosen.lr),
        table,
        records={"type": int, "default": 100_000_000},
        pull={"type": float, "default": 1.6e6, "help": "horizon of the pull, in records; the default is shipped"},
        lr={"type": float, "default": 1.5e-3, "help": "of 16 records; a batch of 1,024 takes 8 times as much"},
    )


if __name__ == "__main__":
    main()
