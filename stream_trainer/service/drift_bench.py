"""`stream-trainer drift-bench`: detectors on streams whose changes are known, and what each of them costs.

A row is a detector with its options and the batch at whose end it is heard; never-fire, every-k and oracle rows are
added to each table. Costs are CPU time of this process, in turn with the step of the default network.
Not here: the streams (drift_bench_cases.py), and how results are shown (drift_bench_report.py).
"""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import yaml

from stream_trainer.contracts import DriftDetector, Model
from stream_trainer.drift import NoDetector, build_error_signal
from stream_trainer.drift.evaluate import (
    CONCEPTS,
    EveryK,
    Oracle,
    Stream,
    Verdict,
    WorseOnly,
    judge,
    piecewise,
)
from stream_trainer.errors import ConfigError
from stream_trainer.models import TorchOptions, build_model
from stream_trainer.schema import Target, TargetKind
from stream_trainer.service.drift_bench_cases import CLASSES, Case
from stream_trainer.types import Batch

__all__ = ["Cost", "Line", "Row", "measure_costs", "parse_rows", "run_cases"]

log = logging.getLogger(__name__)
OF_SHARES = ("ddm", "hddm_a", "hddm_w")  # their bounds hold for values between 0 and 1 only
EVERY_K = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One detector of a table."""

    label: str
    detector: str
    options: Mapping[str, Any]
    batch_records: int  # 1: heard at the record that completed the evidence
    worse_only: bool = False  # heard only when it says that errors rose

    def build(self, target: Target) -> DriftDetector:
        """Raises: ConfigError: unknown name or option."""
        detector = build_error_signal("any", target, self.detector, **self.options).detector
        return WorseOnly(detector) if self.worse_only else detector


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one row did in one case; None: its detector is not made for such values."""

    case: Case
    label: str
    verdict: Verdict | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one detector beside a training step on the same batch."""

    label: str
    record_us: float  # microseconds of CPU a record
    relative_overhead: float  # (step + detector) / step


def parse_rows(text: str, *, batch_records: int, worse_only: bool = False) -> list[Row]:
    """Rows from names with options, separated by commas, as in `drift.error` of a configuration.

    >>> [(row.label, row.options) for row in parse_rows("adwin, cusum: {min_effect: 0}", batch_records=256)]
    [('adwin', {}), ('cusum min_effect=0', {'min_effect': 0})]
    """
    try:
        choices = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise ConfigError(f"--detectors {text!r}: expected names, or name: {{option: value}}; {error}") from error
    rows = []
    for choice in choices:
        named = {choice: {}} if isinstance(choice, str) else choice
        if not isinstance(named, Mapping) or len(named) != 1:
            raise ConfigError(f"--detectors: expected a name, or name: {{option: value}}; found {choice!r}.")
        ((name, options),) = named.items()
        label = " ".join([str(name), *(f"{key}={value}" for key, value in (options or {}).items())])
        row = Row(label=label, detector=name, options=options or {}, batch_records=batch_records, worse_only=worse_only)
        row.build(CLASSES)
        rows.append(row)
    if not rows:
        raise ConfigError("--detectors: expected at least one detector.")
    return rows


def run_cases(cases: Sequence[Case], rows: Sequence[Row], *, runs: int, seed: int) -> list[Line]:
    """Every row, and the three that every table needs, on `runs` streams of each case, of seeds from `seed` on."""
    lines = []
    for case in cases:
        log.info("%s: %d streams", case.name, runs)
        streams = [case.stream(number) for number in range(seed, seed + runs)]
        lines += [Line(case=case, label=row.label, verdict=_verdict(row, case, streams)) for row in rows]
        batch_records = max(row.batch_records for row in rows)
        for label, build in _BASELINES.items():
            verdict = judge(build, streams, batch_records=batch_records, horizon_records=case.horizon_records)
            lines.append(Line(case=case, label=label, verdict=verdict))
    return lines


def _verdict(row: Row, case: Case, streams: Sequence[Stream]) -> Verdict | None:
    if case.target.kind is TargetKind.NUMBER and row.detector in OF_SHARES:
        return None
    return judge(
        lambda stream: row.build(case.target),
        streams,
        batch_records=row.batch_records,
        horizon_records=case.horizon_records,
    )


_BASELINES: dict[str, Callable[[Stream], DriftDetector]] = {
    "never": lambda stream: NoDetector(),
    f"every {EVERY_K:,}": lambda stream: EveryK(EVERY_K),
    "oracle": lambda stream: Oracle(stream.changes),
}


def measure_costs(rows: Sequence[Row], *, batch_records: int, rounds: int = 60) -> list[Cost]:
    """Medians over `rounds` batches; in each, the default network predicts and learns it, then each row sees it."""
    concepts = CONCEPTS["agrawal"]
    table = piecewise(concepts, -(-(rounds + 3) * batch_records // len(concepts.order)), seed=0)
    model = build_model(table.schema, "torch", TorchOptions())
    errors_N = (np.random.default_rng(0).random(len(table)) < 0.1).astype(np.float64)
    detectors = [row.build(CLASSES) for row in rows]
    steps_s: list[float] = []
    rows_s: list[list[float]] = [[] for _ in rows]
    for number in range(rounds + 3):
        part = slice(number * batch_records, (number + 1) * batch_records)
        batch = table.records.rows(part)
        step_s = _cpu_s(partial(_step, model, batch))
        each_s = [_cpu_s(partial(detector.update, errors_N[part])) for detector in detectors]
        if number >= 3:  # the first steps build what later ones have
            steps_s.append(step_s)
            for seconds, row_s in zip(each_s, rows_s, strict=True):
                row_s.append(seconds)
    return [
        Cost(
            label=row.label,
            record_us=1e6 * statistics.median(row_s) / batch_records,
            relative_overhead=1.0 + statistics.median(own / step for own, step in zip(row_s, steps_s, strict=True)),
        )
        for row, row_s in zip(rows, rows_s, strict=True)
    ]


def _step(model: Model, batch: Batch) -> None:
    model.predict(batch)
    model.learn(batch)


def _cpu_s(call: Callable[[], object]) -> float:
    started_s = time.process_time()
    call()
    return time.process_time() - started_s
