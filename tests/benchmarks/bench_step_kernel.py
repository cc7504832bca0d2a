"""What does the compiled step of stream_adamw save of a whole step, with and without categories?

The default network on 16 numbers and 0, 1 or 3 categories of 1,000 buckets, 32 records a step; two models of one seed
learn the same batches in turn, one with optimizers/_kernel.c and one with torch's operations, everything else alike;
with and without a share of the mean gradient in the step. Medians over rounds of 50 steps, CPU time of this process.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_step_kernel.py [rounds]
"""

import itertools
import statistics
import sys
import time
from datetime import date
from unittest.mock import patch

import numpy as np
import torch
from resumable import describe_machine

from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.optimizers import step_kernel
from stream_trainer.schema import CategoryFeature, NumberFeature, Schema, Target
from stream_trainer.types import Batch

BETAS: tuple[float | str, ...] = ("auto", 0.0)
NUMBERS, CATEGORIES, BUCKETS, RECORDS, STEPS = 16, (0, 1, 3), 1_000, 32, 50


def schema_of(categories: int) -> Schema:
    return Schema(
        numbers=tuple(NumberFeature(name=f"x{i}") for i in range(NUMBERS)),
        categories=tuple(CategoryFeature(name=f"c{i}", buckets=BUCKETS) for i in range(categories)),
        target=Target.binary("y"),
    )


def batches(categories: int) -> list[Batch]:
    rng = np.random.default_rng(0)
    return [
        Batch(
            x_NF=rng.normal(size=(RECORDS, NUMBERS)).astype(np.float32),
            missing_NF=None,
            category_NC=rng.integers(0, BUCKETS, (RECORDS, categories)),
            y_N=rng.integers(0, 2, RECORDS),
            timestamp_ms_N=np.full(RECORDS, -1, np.int64),
        )
        for _ in range(STEPS)
    ]


def step_us(model: TorchModel, made: list[Batch], built: object) -> float:
    with patch.object(step_kernel, "built", built):
        started = time.process_time_ns()
        for batch in made:
            model.learn(batch)
        return (time.process_time_ns() - started) / 1e3 / len(made)


def main() -> None:
    torch.set_num_threads(1)
    rounds, compiled = int(sys.argv[1]) if len(sys.argv) > 1 else 40, step_kernel.built
    assert compiled is not None, "the kernel was not built: install again where there is a C compiler"
    print(f"# What the compiled step of stream_adamw saves, {date.today()}\n\n{__doc__.splitlines()[0]}")
    print(f"`bench_step_kernel.py`, {rounds} rounds; {describe_machine()}. Microseconds of CPU a step, 32 records.\n")
    print("| categories | beta1 | torch's operations | compiled | compiled / torch's |\n|---|---|---|---|---|")
    for categories in CATEGORIES:
        made = batches(categories)
        models = {
            (beta1, built): TorchModel(
                schema_of(categories), TorchOptions(optimizer={"stream_adamw": {"beta1": beta1}})
            )
            for beta1, built in itertools.product(BETAS, (None, compiled))
        }
        taken: dict[object, list[float]] = {which: [] for which in models}
        for _ in range(rounds):
            for (beta1, built), model in models.items():
                taken[beta1, built].append(step_us(model, made, built))
        for beta1 in BETAS:
            by_torch, by_kernel = (statistics.median(taken[beta1, built]) for built in (None, compiled))
            print(f"| {categories} | {beta1} | {by_torch:.0f} | {by_kernel:.0f} | {by_kernel / by_torch:.2f} |")


if __name__ == "__main__":
    main()
