"""What does the watch for lost plasticity cost, as a share of predict + learn? Is it under 1 %?

Three costs, each in CPU time, medians over interleaved rounds: of a step that is not looked at, of a step in an open
pool, and of the step that completes it, with and without the rank of the activations. Added up over 100,000 records,
they are set against predict + learn of the same records without any of them.

    OMP_NUM_THREADS=1 nice -n 15 python tests/benchmarks/bench_plasticity_overhead.py [rounds]
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from number_batches import batch_of

from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.models.plasticity import EVERY_RECORDS, POOL_RECORDS, RANK_EVERY_RECORDS, PlasticityWatch
from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.types import Batch

FEATURES, NEVER = 16, 10**15
SCHEMA = Schema(numbers=tuple(NumberFeature(name=f"x{i}") for i in range(FEATURES)), target=Target.binary("y"))


def batch(n: int) -> Batch:
    rng = np.random.default_rng(7)
    x_NF = rng.standard_normal((n, FEATURES), dtype=np.float32)
    return batch_of(x_NF, x_NF[:, 0] > 0)


def cpu_us(call: Callable[[], object]) -> float:
    started = time.process_time_ns()
    call()
    return (time.process_time_ns() - started) / 1e3


def watch(model: TorchModel, *, due: int, rank_due: int, heard: int) -> PlasticityWatch:
    """The model's watch, in a chosen state: nothing due, a pool that stays open, one that the next batch completes."""
    own = model._plasticity
    own.drop_pool()
    own._due, own._rank_due = due, rank_due
    if heard:
        with own.listening(records=0):
            model.network(torch.randn(heard, FEATURES))
        with own.around_step(records=0, batch_records=heard):
            pass
    model.predict(batch(64))  # what was done to get here has warmed or cooled the caches: the same for all
    return own


def share(n: int, rounds: int) -> tuple[float, list[float]]:
    """Per cent of predict + learn, and what it is made of: microseconds of an idle, a pool, a look and a rank step."""
    model, made = TorchModel(SCHEMA, TorchOptions()), batch(n)
    times: dict[str, list[float]] = {name: [] for name in ("predict", "plain", "pool", "look", "rank")}
    last = POOL_RECORDS - min(n, POOL_RECORDS - 1)
    for _ in range(rounds):
        times["predict"].append(cpu_us(lambda: model.predict(made)))
        watch(model, due=NEVER, rank_due=NEVER, heard=0)
        plain = cpu_us(lambda: model.learn(made))
        times["plain"].append(plain)
        if n < POOL_RECORDS // 2:
            watch(model, due=0, rank_due=NEVER, heard=1)
            times["pool"].append(cpu_us(lambda: model.learn(made)) - plain)
        watch(model, due=0, rank_due=NEVER, heard=last)
        times["look"].append(cpu_us(lambda: model.learn(made)) - plain)
        watch(model, due=0, rank_due=0, heard=last)
        times["rank"].append(cpu_us(lambda: model.learn(made)) - plain)
    own = watch(model, due=NEVER, rank_due=NEVER, heard=0)

    def idle() -> None:
        for _ in range(1_000):
            with own.listening(0):
                pass
            with own.around_step(0, n):
                pass

    idle_us = statistics.median(cpu_us(idle) for _ in range(20)) / 1_000
    pool, look, rank = (statistics.median(times[name] or [0.0]) for name in ("pool", "look", "rank"))
    step = statistics.median(times["predict"]) + statistics.median(times["plain"])
    looks = RANK_EVERY_RECORDS // EVERY_RECORDS
    steps = RANK_EVERY_RECORDS / n
    cost = steps * idle_us + looks * (max(0, -(-POOL_RECORDS // n) - 1) * pool + look) + rank - look
    return 100 * cost / (steps * (step - idle_us)), [step, idle_us, pool, look, rank]


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    print(f"{platform.machine()}, one thread, torch {torch.__version__}, {rounds} rounds, CPU time in microseconds\n")
    print(
        "| records in a batch | share of predict + learn, % | predict + learn | idle | in a pool | a look | with rank |"
    )
    print("|---|---|---|---|---|---|---|")
    for n in (1, 16, 64, 256, 1_024):
        percent, parts = share(n, rounds)
        print(f"| {n} | {percent:.2f} | " + " | ".join(f"{part:,.1f}" for part in parts) + " |", flush=True)


if __name__ == "__main__":
    main()
