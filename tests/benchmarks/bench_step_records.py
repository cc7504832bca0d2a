"""In how many steps should a large batch be learned? Score and price of `step_records_max`, with every other default.

One pass of `TorchModel` over streams in their own order and shuffled images; a batch is predicted whole, then learned
in steps of at most so many records, each a sample of the batch. Beside it the same records in batches of 16, which are
also predicted that much sooner. Probabilities are the network's own, without the temperature. Speed: records per CPU
second of predicting and learning; compare within the table.

    python tests/benchmarks/bench_step_records.py run --out tests/benchmarks/step_records_DATE.csv
    python tests/benchmarks/bench_step_records.py table tests/benchmarks/step_records_DATE.csv
"""

import itertools
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bench_batch_choice import answers, log_loss, records_of
from resumable import Results, describe_machine, run_or_table

from stream_trainer.models import TorchModel, TorchOptions

STREAMS = {"fashion": ("iid", 16_000), "noaa": ("own", 16_000), "covtype": ("own", 40_000), "elec2": ("own", 40_000)}
NORMS = ("adaptive_batch_renorm", "layer")
BATCHES = (64, 256, 1_024)
IN_ONE = 0  # of `step`: a batch is one step
STEPS = (IN_ONE, 64, 32, 16)
SMALL = 16


@dataclass(frozen=True, kw_only=True)
class Run:
    data: str
    norm: str
    batch: int
    step: int  # at most so many records each; 0: the batch is one step
    seed: int


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    accuracy: float
    log_loss: float
    cpu_s: float


def measure(run: Run) -> Row:
    schema, whole = records_of(run.data, *STREAMS[run.data], run.seed)
    options = TorchOptions(norm=run.norm, step_records_max=run.step or None, calibrated=False, seed=run.seed)
    model = TorchModel(schema, options)
    started = time.process_time()
    p_NK = answers(model, whole, str(run.batch))
    cpu_s = time.process_time() - started
    return Row(
        **asdict(run),
        accuracy=float((p_NK.argmax(axis=1) == whole.y_N).mean()),
        log_loss=log_loss(p_NK, whole.y_N),
        cpu_s=cpu_s,
    )


def cells() -> list[tuple[int, int]]:
    """(batch, step): without those whose steps are as large as the batch."""
    large = [(batch, step) for batch, step in itertools.product(BATCHES, STEPS) if step < batch]
    return [(SMALL, IN_ONE), *large]


def run_all(path: Path, seeds: int) -> None:
    results = Results(path, Run, Row)
    for seed, norm, data, (batch, step) in itertools.product(range(1, seeds + 1), NORMS, STREAMS, cells()):
        results.once(Run(data=data, norm=norm, batch=batch, step=step, seed=seed), measure)


def table(path: Path) -> str:
    results = Results(path, Run, Row)
    found: dict[tuple[str, str, int, int], list[Row]] = defaultdict(list)
    for row in results:
        found[row.norm, row.data, row.batch, row.step].append(row)
    lengths = ", ".join(f"{data} {records:,} ({order})" for data, (order, records) in STREAMS.items())
    lines = [
        "# In how many steps should a large batch be learned?",
        "",
        f"From `{path.name}` ({len(results)} runs, {sum(row.cpu_s for row in results) / 60:.0f} CPU minutes; "
        f"{describe_machine()}). `TorchModel` with its default network (MLP 128, 64) and stream_adamw, seeds "
        f"{', '.join(map(str, sorted({row.seed for row in results})))}. Records: {lengths}. Log-loss / accuracy in % "
        "of predictions made before learning; speed: records per CPU second, median over streams and seeds.",
        "",
    ]
    for norm in NORMS:
        lines += [f"## {norm}", "", "| batch | steps of | " + " | ".join(STREAMS) + " | records/s |"]
        lines.append("|---" * (len(STREAMS) + 3) + "|")
        for batch, step in cells():
            rows = {data: found.get((norm, data, batch, step), []) for data in STREAMS}
            if all(rows.values()):
                scores = [_score(of_data) for of_data in rows.values()]
                speeds = [STREAMS[row.data][1] / row.cpu_s for of_data in rows.values() for row in of_data]
                steps = step or "the batch"
                lines.append(f"| {batch} | {steps} | " + " | ".join(scores) + f" | {np.median(speeds):,.0f} |")
        lines.append("")
    return "\n".join(lines)


def _score(rows: list[Row]) -> str:
    return f"{np.mean([row.log_loss for row in rows]):.3f} / {100 * np.mean([row.accuracy for row in rows]):.1f}"


def main() -> None:
    run_or_table(__doc__, lambda chosen: run_all(chosen.out, chosen.seeds), table, seeds={"type": int, "default": 3})


if __name__ == "__main__":
    main()
