"""What watching costs: scores and drift signals as a share of the step of the default network. Is it under 10 %?

Run: OMP_NUM_THREADS=1 nice -n 15 python tests/benchmarks/bench_drift_overhead.py [rounds]
16 numbers, a binary target, batches of 256, TorchOptions as shipped. In each round every part does its work on the same
batch, in turn with the step (predict + learn) that it is compared with; a number is the median over rounds of part over
step, in CPU time of this process, so that a busy neighbour counts for little. References are complete before counting.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from stream_trainer.drift import build_confidence_signal, build_error_signal, build_feature_signal, build_norm_signal
from stream_trainer.drift.signals import LabelSignal, PredictionSignal
from stream_trainer.evaluation import Prequential
from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.types import Batch

FEATURES, RECORDS, WARMUP = 16, 256, 48
SCHEMA = Schema(numbers=tuple(NumberFeature(name=f"x{i}") for i in range(FEATURES)), target=Target.binary("y"))


def batches(n: int) -> list[Batch]:
    rng = np.random.default_rng(7)
    made = []
    for _ in range(n):
        x_NF = rng.standard_normal((RECORDS, FEATURES), dtype=np.float32)
        y_N = (x_NF[:, :4].sum(axis=1) + rng.standard_normal(RECORDS) > 0).astype(np.int64)
        made.append(
            Batch(
                x_NF=x_NF,
                missing_NF=None,
                category_NC=np.zeros((RECORDS, 0), np.int64),
                y_N=y_N,
                timestamp_ms_N=np.full(RECORDS, -1, np.int64),
            )
        )
    return made


def timed(call: Callable[[], object]) -> float:
    started_s = time.process_time()
    call()
    return time.process_time() - started_s


class Round:
    """One model and everything that may watch it; a round is one batch."""

    def __init__(self) -> None:
        self.model = TorchModel(SCHEMA, TorchOptions())
        target = SCHEMA.target
        self.scores, self.errors = Prequential(target, ["m"]), build_error_signal("m", target)
        self.features, self.predictions = build_feature_signal(SCHEMA), PredictionSignal("m", target)
        self.labels, self.confidence = LabelSignal(target), build_confidence_signal("m", target)
        self.norms = build_norm_signal("m")

    def seconds(self, batch: Batch) -> tuple[float, dict[str, float]]:
        """Of the step, and of each part."""
        model, found = self.model, dict[str, np.ndarray]()
        probability = model.predict(batch)
        step_s = timed(lambda: (model.predict(batch), model.learn(batch)))
        parts = {  # default: what runs without being asked for
            "scores (default)": lambda: found.update(self.scores.update(batch.y_N, {"m": probability})),
            "error (default)": lambda: self.errors.update(found["m"]),
            "features (default)": lambda: self.features.update(batch),
            "predictions": lambda: self.predictions.update(probability),
            "labels": lambda: self.labels.update(batch.y_N),
            "confidence": lambda: self.confidence.update(probability),
            "norms": lambda: self.norms.update(len(batch), model.norm_drift),
        }
        return step_s, {name: timed(part) for name, part in parts.items()}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    torch.set_num_threads(1)
    each, steps_ms = Round(), []
    shares: dict[str, list[float]] = {}
    for number, batch in enumerate(batches(WARMUP + rounds)):
        step_s, parts_s = each.seconds(batch)
        if number < WARMUP:
            continue
        steps_ms.append(1e3 * step_s)
        together = {
            "default, together": sum(s for name, s in parts_s.items() if "(default)" in name),
            "all, together": sum(parts_s.values()),
        }
        for name, part_s in {**parts_s, **together}.items():
            shares.setdefault(name, []).append(part_s / step_s)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, {rounds} rounds")
    print(f"step of the default network: {statistics.median(steps_ms):.2f} ms of CPU\n")
    print("| part | share of the step, median | quartiles |\n|---|---|---|")
    for name, values in shares.items():
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        print(f"| {name} | {middle:.1%} | {low:.1%} to {high:.1%} |")


if __name__ == "__main__":
    main()
