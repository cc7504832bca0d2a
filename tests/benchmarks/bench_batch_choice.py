"""How large a batch, for which optimizer? Score and speed of both, as a user of the product gets them.

One pass of `TorchModel` (the default network and norm, the optimizer by its name in the configuration, one step a
batch: `step_records_max: null`), each record predicted before it is learned. For each cell (data set, batch, optimizer)
a seed of its own chooses the rate; the table is made of other seeds. The speed is records per second of CPU for
predicting and learning: a clock on the wall would measure the machine's other users. `lbfgs` refuses batches of fewer
than 16 records, and takes a step back that raised the loss of its own batch: both are counted, as shares of all
records.

    python tests/benchmarks/bench_batch_choice.py run --out tests/benchmarks/batch_choice_DATE.csv
    python tests/benchmarks/bench_batch_choice.py table tests/benchmarks/batch_choice_DATE.csv
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from online_streams import stream
from resumable import Results, describe_machine, run_or_table

from stream_trainer.engine.batcher import BatchPolicy, Growth
from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.schema import ArrayFeature, NumberFeature, Schema, Target, TargetKind
from stream_trainer.types import Batch

DATA = {"fashion": "iid", "elec2": "own"}  # data set -> order; elec2 as the market wrote it
BATCHES = ("512", "128", "32", "growing", "8", "2")  # cheap first: what is stopped early has whole rows
RATES = {"sgd": (0.01, 0.03, 0.1, 0.3), "adam": (0.001, 0.003, 0.01), "lbfgs": (0.1, 1.0)}
RECORDS = 8_000
GROWING = BatchPolicy(records_max=512, growth=Growth(start=2, over_records=RECORDS // 2))
TUNING_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    data: str
    batch: str  # records, or "growing"
    optimizer: str
    rate: float
    seed: int
    records: int = RECORDS


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    accuracy: float  # share of right predictions, each made before its record was learned
    last_quarter: float  # the same, of the last quarter of the stream
    refused_few: float  # share of records in batches that lbfgs found too small,
    refused_worse: float  # in batches whose step raised their loss,
    refused_not_finite: float  # and in batches whose loss or gradient was not finite
    steps: int  # that were kept
    cpu_s: float


# ---------------------------------------------------------------- one run


def records_of(data: str, order: str, n_records: int, seed: int) -> tuple[Schema, Batch]:
    """The whole stream as the decoder would hand it over, and its schema: images as an array feature."""
    found = stream(data, order, n_records, seed, images=data == "fashion")
    classes = Target(name="y", kind=TargetKind.CLASSES, classes=tuple(map(str, range(found.classes))))
    x = found.x.numpy()
    if data == "fashion":
        image = ArrayFeature(name="image", shape=x.shape[2:])
        schema, numbers, arrays = Schema(arrays=(image,), target=classes), x[:, 0, 0, :0], {"image": x[:, 0]}
    else:
        names = tuple(NumberFeature(name=f"x{i}") for i in range(x.shape[1]))
        schema, numbers, arrays = Schema(numbers=names, target=classes), x, {}
    no_category, no_time = np.zeros((len(x), 0), np.int64), np.full(len(x), -1, np.int64)
    return schema, Batch(
        x_NF=numbers,
        missing_NF=None,
        category_NC=no_category,
        y_N=found.y.numpy(),
        arrays=arrays,
        timestamp_ms_N=no_time,
    )


def cut(whole: Batch, batch: str) -> Iterator[Batch]:
    start = 0
    while start < len(whole):
        size = GROWING.records_limit(start) if batch == "growing" else int(batch)
        yield whole.rows(slice(start, start + size))
        start += size


def answers(model: TorchModel, whole: Batch, batch: str) -> np.ndarray:
    """(N, K) probabilities, each batch predicted and then learned."""
    told: list[np.ndarray] = []
    for part in cut(whole, batch):
        told.append(model.predict(part))
        model.learn(part)
    return np.concatenate(told)


def log_loss(p_NK: np.ndarray, y_N: np.ndarray) -> float:
    return float(-np.log(np.clip(p_NK[np.arange(len(y_N)), y_N], 1e-12, 1)).mean())


def measure(run: Run) -> Row:
    schema, whole = records_of(run.data, DATA[run.data], run.records, run.seed)
    options = TorchOptions(optimizer={run.optimizer: {"lr": run.rate}}, step_records_max=None, seed=run.seed)
    model = TorchModel(schema, options)
    right: list[np.ndarray] = []
    refused = {None: 0, "too_few": 0, "worse": 0, "non_finite": 0}
    steps = 0
    started = time.process_time()
    for batch in cut(whole, run.batch):
        right.append(model.predict(batch).argmax(axis=1) == batch.y_N)
        skipped = model.learn(batch).skipped
        refused[skipped] += len(batch)
        steps += skipped is None
    cpu_s = time.process_time() - started
    right_N = np.concatenate(right)
    return Row(
        **asdict(run),
        accuracy=float(right_N.mean()),
        last_quarter=float(right_N[-len(right_N) // 4 :].mean()),
        refused_few=refused["too_few"] / run.records,
        refused_worse=refused["worse"] / run.records,
        refused_not_finite=refused["non_finite"] / run.records,
        steps=steps,
        cpu_s=cpu_s,
    )


# ---------------------------------------------------------------- all of them


def run_all(path: Path, seeds: int) -> None:
    """Every cell's rate first, then seed by seed, so that a stopped grid compares equals; the dear lbfgs last."""
    results = Results(path, Run, Row)
    dear_last = sorted(itertools.product(BATCHES, DATA, RATES), key=lambda cell: cell[2] == "lbfgs")
    best = {}
    for batch, data, optimizer in dear_last:
        rates = RATES[optimizer]
        if optimizer == "lbfgs" and batch in ("2", "8"):
            rates = rates[-1:]  # it learns nothing there, at any rate
        cell = {"data": data, "batch": batch, "optimizer": optimizer, "seed": TUNING_SEED}
        tuned = [results.once(Run(**cell, rate=rate), measure) for rate in rates]
        best[data, batch, optimizer] = max(tuned, key=lambda row: row.accuracy).rate
    for seed, ((data, batch, optimizer), rate) in itertools.product(range(1, seeds + 1), best.items()):
        results.once(Run(data=data, batch=batch, optimizer=optimizer, rate=rate, seed=seed), measure)


# ---------------------------------------------------------------- the table


Cells = dict[tuple[str, str, str], list[Row]]


def cells_of(results: Results[Run, Row]) -> Cells:
    """(data, batch, optimizer) -> the runs on fresh seeds; without any, those of the tuning seed, best first."""
    cells: Cells = defaultdict(list)
    tuned: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in results:
        (tuned if row.seed == TUNING_SEED else cells)[row.data, row.batch, row.optimizer].append(row)
    for key, rows in tuned.items():
        if key not in cells:
            cells[key] = sorted(rows, key=lambda row: row.accuracy, reverse=True)
    return cells


def table(path: Path) -> str:
    results = Results(path, Run, Row)
    cells = cells_of(results)
    lines = [
        "# Choosing the batch",
        "",
        f"From `{path.name}` ({len(results)} runs, {sum(row.cpu_s for row in results) / 60:.0f} CPU minutes; "
        f"{describe_machine()}). Streams of {RECORDS} records: fashion (14 x 14 images, shuffled) and elec2 (in its "
        "own order), the product's `TorchModel` with its default network (MLP 128, 64) and norm, one step a batch. "
        "Prequential accuracy in %, mean (sd; number of seeds) at the rate that another seed chose among "
        f"{RATES}; in italics, where no other seed has been run yet, what that one got at the best of the rates it has "
        "tried. Speed: records per CPU second of predict and learn, median; other work on the machine lowers it, so "
        f"compare within the table only. Growing: 2 to 512 records, by a constant factor per record over the first "
        f"{RECORDS // 2} records.",
        "",
    ]
    for data in DATA:
        lines += _one_table(cells, data)
    return "\n".join([*lines, *_remarks(cells)]) + "\n"


def _one_table(cells: Cells, data: str) -> list[str]:
    lines = [f"## {data}", "", "| batch |" + "".join(f" {name} | rate | records/s |" for name in RATES)]
    lines.append("|---" * (1 + 3 * len(RATES)) + "|")
    for batch in _by_size():
        texts = []
        for optimizer in RATES:
            rows = cells.get((data, batch, optimizer))
            texts += _one_cell(rows) if rows else ["", "", ""]
        lines.append(f"| {batch} | " + " | ".join(texts) + " |")
    return [*lines, ""]


def _one_cell(rows: list[Row]) -> list[str]:
    accuracies = [100 * row.accuracy for row in rows]
    accuracy = f"{np.mean(accuracies):.1f} ({np.std(accuracies):.1f}; {len(rows)})"
    if rows[0].seed == TUNING_SEED:
        accuracy = f"*{accuracies[0]:.1f}* (of {len(rows)})"
    return [accuracy, f"{rows[0].rate:g}", f"{np.median([row.records / row.cpu_s for row in rows]):,.0f}"]


def _by_size() -> list[str]:
    return sorted(BATCHES, key=lambda batch: int(batch) if batch.isdigit() else 10_000)


def _remarks(cells: Cells) -> list[str]:
    lines = ["## What lbfgs refused, in % of the records", ""]
    lines += ["| data | batch | too few records | the step raised the batch's loss | not finite | steps kept |"]
    lines.append("|---|---|---|---|---|---|")
    for data, batch in itertools.product(DATA, _by_size()):
        rows = cells.get((data, batch, "lbfgs"))
        if rows:
            names = ("refused_few", "refused_worse", "refused_not_finite")
            shares = " | ".join(f"{100 * np.mean([getattr(row, name) for row in rows]):.1f}" for name in names)
            lines.append(f"| {data} | {batch} | {shares} | {np.mean([row.steps for row in rows]):.0f} |")
    return lines


def main() -> None:
    seeds = {"type": int, "default": 3, "help": "besides the one that chooses the rates"}
    run_or_table(__doc__, lambda chosen: run_all(chosen.out, chosen.seeds), table, seeds=seeds)


if __name__ == "__main__":
    main()
