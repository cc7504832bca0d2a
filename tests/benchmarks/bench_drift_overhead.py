"""What watching costs: scores and drift signals as a share of the step of the default network. Is it under 10 %?

Run: OMP_NUM_THREADS=1 nice -n 15 python tests/benchmarks/bench_drift_overhead.py [stretches]
16 numbers, a binary target, batches of 16, 256 and 1,024, TorchOptions as shipped. With each batch every part does its
work in turn with the step (predict + learn) that it is compared with. Some parts do it every 1,024 records, so part and
step are summed over stretches of 4,096 records; a number is the median over stretches of part over step, in CPU time of
this process, so that a busy neighbour counts for little. References are complete before counting.
"""

import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch
from number_batches import batch_of

from stream_trainer.drift import build_confidence_signal, build_error_signal, build_feature_signal, build_norm_signal
from stream_trainer.drift.signals import LabelSignal, PredictionSignal
from stream_trainer.evaluation import Prequential
from stream_trainer.models import TorchModel, TorchOptions
from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.types import Batch, Verdict

FEATURES, CUTS = 16, (16, 256, 1024)
STRETCH, WARMUP = 4096, 3  # records; stretches
SCHEMA = Schema(numbers=tuple(NumberFeature(name=f"x{i}") for i in range(FEATURES)), target=Target.binary("y"))


def batches(n: int, records: int) -> Iterator[Batch]:
    rng = np.random.default_rng(7)
    for _ in range(n):
        x_NF = rng.standard_normal((records, FEATURES), dtype=np.float32)
        yield batch_of(x_NF, x_NF[:, :4].sum(axis=1) + rng.standard_normal(records) > 0)


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
        model, found = self.model, dict[str, Verdict]()
        probability = model.predict(batch)
        step_s = timed(lambda: (model.predict(batch), model.learn(batch)))
        parts = {  # default: what runs without being asked for
            "scores (default)": lambda: found.update(self.scores.update(batch.y_N, {"m": probability})),
            "error (default)": lambda: self.errors.update(found["m"].error_N),
            "features (default)": lambda: self.features.update(batch),
            "predictions": lambda: self.predictions.update(found["m"].said_N),
            "labels": lambda: self.labels.update(batch.y_N),
            "confidence": lambda: self.confidence.update(found["m"].doubt_N),
            "norms": lambda: self.norms.update(len(batch), model.norm_drift),
        }
        return step_s, {name: timed(part) for name, part in parts.items()}


def shares(records: int, stretches: int) -> tuple[float, dict[str, list[float]]]:
    """Median step in ms; part -> its share of the step in each stretch."""
    each, steps_s = Round(), []
    found: dict[str, list[float]] = {}
    total_s: Counter[str] = Counter()
    for done, batch in enumerate(batches((WARMUP + stretches) * STRETCH // records, records), start=1):
        step_s, parts_s = each.seconds(batch)
        steps_s.append(step_s)
        total_s.update(step=step_s, **parts_s)
        total_s["all, together"] += sum(parts_s.values())
        total_s["default, together"] += sum(s for name, s in parts_s.items() if "(default)" in name)
        if done * records % STRETCH == 0:
            whole_s = total_s.pop("step")
            if done * records > WARMUP * STRETCH:
                for name, part_s in total_s.items():
                    found.setdefault(name, []).append(part_s / whole_s)
            total_s.clear()
    return 1e3 * statistics.median(steps_s), found


def main() -> None:
    stretches = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    torch.set_num_threads(1)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, {stretches} stretches"
    )
    print("\n| part | " + " | ".join(f"batches of {records:,}" for records in CUTS) + " |\n|---|" + "---|" * len(CUTS))
    measured = {records: shares(records, stretches) for records in CUTS}
    print("| step, median, ms of CPU | " + " | ".join(f"{step_ms:.2f}" for step_ms, _ in measured.values()) + " |")
    for name in measured[CUTS[0]][1]:
        cells = []
        for _, found in measured.values():
            low, middle, high = np.quantile(found[name], [0.25, 0.5, 0.75])
            cells.append(f"{middle:.1%} ({low:.1%} to {high:.1%})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
