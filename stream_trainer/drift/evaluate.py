"""How good is a detector? Streams with exactly known changes, controls without any, and a fair way of counting.

Rules: a detection counts when it is told, at the end of its batch. The first one within `horizon_records` after a
change (and before the next change) is that change's; later ones there are neither hits nor false; all others are
false. Delays are never shown without the false alarms beside them, nor either without never-fire, every-k and oracle:
a detector that fires every 100 records finds everything at once.
Refused: F1 scores, which that detector wins; clocks: what a detector costs is measured by who calls (tests/benchmarks).
Sources: delay and normalised detection time as in Cerqueira et al. 2026, arXiv:2606.07789; average run length: Page.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from stream_trainer.contracts import DriftDetector
from stream_trainer.types import Detection, Direction, State

__all__ = [
    "EveryK",
    "Oracle",
    "Stream",
    "Verdict",
    "autocorrelated_errors",
    "errors_with_changes",
    "judge",
    "losses_with_changes",
    "seasonal_errors",
    "told_at",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Values, and the records at which their distribution changed; none for a stationary control."""

    name: str
    values_N: np.ndarray
    changes: tuple[int, ...] = ()


def errors_with_changes(*pieces: tuple[int, float], seed: int) -> Stream:
    """Errors 0 or 1 of a classifier: pieces of (records, error rate).

    >>> errors_with_changes((1000, 0.1), (500, 0.3), seed=0).changes
    (1000,)
    """
    rng = np.random.default_rng(seed)
    values_N = np.concatenate([(rng.random(n, dtype=np.float32) < p).astype(np.float32) for n, p in pieces])
    return Stream(name="errors " + _arrows(pieces), values_N=values_N, changes=_changes(pieces))


def losses_with_changes(*pieces: tuple[int, float], seed: int) -> Stream:
    """Absolute errors of a regression, half-normal: pieces of (records, standard deviation)."""
    rng = np.random.default_rng(seed)
    values_N = np.concatenate([np.abs(rng.normal(0.0, sd, n)) for n, sd in pieces])
    return Stream(name="losses " + _arrows(pieces), values_N=values_N, changes=_changes(pieces))


def autocorrelated_errors(
    n: int, *, rate: float, spread: float = 0.005, half_life_records: float = 20_000.0, seed: int
) -> Stream:
    """A control: the error rate wanders about `rate` with standard deviation `spread`, and never changes for good."""
    rng, step = np.random.default_rng(seed), 100
    keep = 0.5 ** (step / half_life_records)
    noise = rng.normal(0.0, spread * math.sqrt(1 - keep**2), -(-n // step))
    wander, level = np.empty(len(noise)), 0.0
    for i, shock in enumerate(noise.tolist()):
        level = keep * level + shock
        wander[i] = level
    rate_N = rate + np.repeat(wander, step)[:n]
    return Stream(name=f"control: wandering ±{spread}", values_N=(rng.random(n) < rate_N).astype(np.float32))


def seasonal_errors(
    n: int, *, rate: float, amplitude: float = 0.005, period_records: int = 100_000, seed: int
) -> Stream:
    """A control: the error rate swings about `rate` as over a day, and comes back."""
    rng = np.random.default_rng(seed)
    rate_N = rate + amplitude * np.sin(2 * np.pi * np.arange(n) / period_records)
    return Stream(name=f"control: seasonal ±{amplitude}", values_N=(rng.random(n) < rate_N).astype(np.float32))


def told_at(detector: DriftDetector, stream: Stream, batch_records: int) -> list[int]:
    """Feed the stream in batches; the record at whose arrival each detection was told, the last of its batch."""
    told = []
    for start in range(0, len(stream.values_N), batch_records):
        values_N = stream.values_N[start : start + batch_records]
        told += [start + len(values_N) - 1] * len(detector.update(values_N))
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a detector did on some streams."""

    delays: tuple[int, ...]  # records from a change to the first detection in its horizon
    n_missed: int
    n_false: int
    stable_records: int  # outside all horizons
    horizon_records: int

    @property
    def delay_median(self) -> float:
        """Over the changes found; nan: none was."""
        return float(np.median(self.delays)) if self.delays else math.nan

    @property
    def delay_p95(self) -> float:
        return float(np.percentile(self.delays, 95)) if self.delays else math.nan

    @property
    def normalised_detection_time(self) -> float:
        """Mean delay in horizons, a missed change counting 1; nan: there was no change."""
        n = len(self.delays) + self.n_missed
        return (sum(self.delays) / self.horizon_records + self.n_missed) / n if n else math.nan

    @property
    def false_per_100k(self) -> float:
        return 1e5 * self.n_false / self.stable_records if self.stable_records else math.nan

    @property
    def run_length_records(self) -> float:
        """Stable records per false alarm; infinite: there was none."""
        return self.stable_records / self.n_false if self.n_false else math.inf

    def run_length_hours(self, records_per_s: float) -> float:
        return self.run_length_records / records_per_s / 3600


def judge(
    build: Callable[[Stream], DriftDetector], streams: Iterable[Stream], *, batch_records: int, horizon_records: int
) -> Verdict:
    """Run a fresh detector over each stream and count by the rules of this module.

    Args: build: makes the detector; it is shown the stream so that an oracle can be one too.

    >>> from stream_trainer.drift.adwin import WeightedAdwin
    >>> streams = [errors_with_changes((5000, 0.1), (5000, 0.3), seed=seed) for seed in range(5)]
    >>> verdict = judge(lambda stream: WeightedAdwin(), streams, batch_records=32, horizon_records=5000)
    >>> verdict.n_missed, verdict.n_false, 100 < verdict.delay_median < 400
    (0, 0, True)
    """
    delays: list[int] = []
    n_missed = n_false = stable_records = 0
    for stream in streams:
        n = len(stream.values_N)
        told = told_at(build(stream), stream, batch_records)
        ends = [*stream.changes, n][1:]
        horizons = [(c, min(c + horizon_records, end)) for c, end in zip(stream.changes, ends, strict=True)]
        for change, end in horizons:
            first = next((record for record in told if change <= record < end), None)
            if first is None:
                n_missed += 1
            else:
                delays.append(first - change + 1)
        n_false += sum(not any(change <= record < end for change, end in horizons) for record in told)
        stable_records += n - sum(end - change for change, end in horizons)
    return Verdict(
        delays=tuple(delays),
        n_missed=n_missed,
        n_false=n_false,
        stable_records=stable_records,
        horizon_records=horizon_records,
    )


# ---------------------------------------------------------------- the rows that every table needs


@dataclass(slots=True)
class EveryK:
    """Fires every `k` records, whatever they are: finds all, means nothing."""

    k: int
    n_records: int = 0

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        first, self.n_records = self.n_records, self.n_records + len(values_N)
        return [
            _nothing(end - first - 1)
            for end in range(first // self.k * self.k, self.n_records + 1, self.k)
            if end > first
        ]

    def capture(self) -> State:
        return State(values={"n_records": self.n_records})

    def restore(self, state: State) -> None:
        self.n_records = state.values["n_records"]


@dataclass(slots=True)
class Oracle:
    """Knows the changes, and fires at their first record: what no detector can beat."""

    changes: tuple[int, ...]
    n_records: int = field(default=0)

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        first, self.n_records = self.n_records, self.n_records + len(values_N)
        return [_nothing(change - first) for change in self.changes if first <= change < self.n_records]

    def capture(self) -> State:
        return State(values={"n_records": self.n_records})

    def restore(self, state: State) -> None:
        self.n_records = state.values["n_records"]


def _nothing(index: int) -> Detection:
    """A detection without evidence."""
    return Detection(
        index=index, direction=Direction.UP, before=0.0, after=0.0, statistic=0.0, threshold=0.0, window_records=0
    )


def _changes(pieces: Sequence[tuple[int, float]]) -> tuple[int, ...]:
    return tuple(np.cumsum([n for n, _ in pieces])[:-1].tolist())


def _arrows(pieces: Sequence[tuple[int, float]]) -> str:
    return "→".join(f"{level:g}" for _, level in pieces) + f" after {pieces[0][0]:,}"
