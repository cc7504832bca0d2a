"""Does it help to shorten the horizon of the pull to the initial weights after a confirmed drift?

A permuted stream: 64 inputs around one of 40 made-up prototypes, four to each of ten classes; every 2,048 records the
inputs change places, so all that was learned is wrong at once. 16 such tasks in batches of 32, test then train, the
shipped network at its shipped rate. Drift is confirmed by an oracle 256 records after each change; from there on the
pull is `factor` times as hard for `records` records, and then at rest again (horizon 1.6 M records). On the stationary
stream the order stays, and the confirmed drifts are false.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_pull_horizon.py --seeds 3 --out pull_horizon.csv

The table goes to the standard output, one row per run to the file.
"""

import argparse
import csv
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
from prototypes import INPUTS, SCHEMA, batches_around, draw_prototypes

from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.types import Batch

BATCH, TASK_RECORDS, TASKS, CONFIRMED_AFTER, AT_REST = 32, 2_048, 16, 256, 1.6e6
PULLS: dict[str, tuple[float | None, float, int]] = {
    "no pull": (None, 1.0, 0),
    "at rest always": (AT_REST, 1.0, 0),
    "10x, 1,024 records": (AT_REST, 10.0, 1_024),
    "10x always": (AT_REST / 10, 1.0, 0),
    "100x, 1,024 records": (AT_REST, 100.0, 1_024),
    "1000x, 256 records": (AT_REST, 1000.0, 256),
    "all the way, 32 records": (AT_REST, 1e9, 32),
}
"""Name -> horizon at rest, factor after a confirmed drift, for how many records."""


def stream(kind: str, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    prototypes = draw_prototypes(rng)
    for _ in range(TASKS):
        order = rng.permutation(INPUTS) if kind == "permuted" else np.arange(INPUTS)
        yield from batches_around(prototypes, order, rng, batch=BATCH, batches=TASK_RECORDS // BATCH)


def run(kind: str, pull: str, seed: int) -> np.ndarray:
    """Share of right answers, (tasks, batches of a task)."""
    horizon, factor, records = PULLS[pull]
    optimizer = {"stream_adamw": {"pull_horizon_records": horizon}}
    model = TorchModel(SCHEMA, TorchOptions(hidden=(64, 64), optimizer=optimizer, seed=seed))
    right = []
    for step, batch in enumerate(stream(kind, seed)):
        place = step * BATCH % TASK_RECORDS  # since the change; the first task is no change
        confirmed = step * BATCH >= TASK_RECORDS and CONFIRMED_AFTER <= place < CONFIRMED_AFTER + records
        model.scale_pull(factor if confirmed else 1.0)
        right.append(float((model.predict(batch).argmax(axis=1) == batch.y_N).mean()))
        model.learn(batch)
    return np.array(right).reshape(TASKS, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--streams", nargs="+", default=["permuted", "stationary"])
    parser.add_argument("--pulls", nargs="+", default=list(PULLS))
    parser.add_argument("--out", type=Path, default=Path("pull_horizon.csv"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{date.today()}, torch {torch.__version__}, {chosen.seeds} seeds, accuracy in points\n")
    print("| stream | pull | all tasks after the first | first 1,024 after a change | last 4 tasks | against at rest |")
    print("|---|---|---|---|---|---|")
    with chosen.out.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["stream", "pull", "seed", "after_first_task", "first_1024", "last_4_tasks"])
        for kind in chosen.streams:
            found: dict[str, np.ndarray] = {}
            for pull in ["at rest always", *(name for name in chosen.pulls if name != "at rest always")]:
                scores = []
                for seed in range(chosen.seeds):
                    right = 100 * run(kind, pull, seed)
                    scores.append([right[1:].mean(), right[1:, : 1_024 // BATCH].mean(), right[-4:].mean()])
                    rows.writerow([kind, pull, seed, *(f"{score:.3f}" for score in scores[-1])])
                    file.flush()
                found[pull] = np.array(scores)
                gain = found[pull][:, 0] - found["at rest always"][:, 0]
                error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
                cells = " | ".join(f"{score:.2f}" for score in found[pull].mean(axis=0))
                print(f"| {kind} | {pull} | {cells} | {gain.mean():+.2f} ± {error:.2f} |", flush=True)


if __name__ == "__main__":
    main()
