"""Cumulative sums of standardised blocks: a second opinion that is quicker on small lasting changes.

The stream is cut into blocks of `block_records` on a grid counted from its first record. Each block's mean is
standardised against the reference, z = (mean - mean_ref) / sqrt(var_ref (1/n + 1/n_ref)), and two sums add what
exceeds the slack: up = max(0, up + z - slack), down = max(0, down - z - slack). The reference is all blocks since the
last change, so its own error is part of z and the delay does not grow with age. After a change it starts again from
nothing: the sum leaves 0 a few blocks early, and old blocks in a new reference raise a second alarm later. Memory: a
dozen numbers.
Refused: a fixed textbook threshold. h = 5 alarms every 465 blocks, 20 times an hour at 1,000 records a second; here
the threshold follows from how rare false suspects shall be.
Sources: Page 1954; Siegmund, "Sequential Analysis", 1985, for the average run length; Hawkins 1987, self-starting.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.errors import ConfigError
from stream_trainer.types import Detection, Direction, State

__all__ = ["BatchCusum", "CusumOptions", "threshold_for"]


def threshold_for(*, blocks_between_false_suspects: float, slack_sigmas: float = 0.5) -> float:
    """Height h of the sum at which one-sided false suspects of independent normal z are so far apart on average.

    Siegmund: run length = (exp(b) - b - 1) / (2 slack²), b = 2 slack (h + 1.166); solved for h by iteration.

    >>> round(threshold_for(blocks_between_false_suspects=930), 1)  # the textbook's table: 5
    5.0
    """
    target = 1.0 + 2.0 * slack_sigmas**2 * blocks_between_false_suspects
    b = math.log(target)
    for _ in range(50):
        b = math.log(target + b)
    return max(b / (2.0 * slack_sigmas) - 1.166, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CusumOptions:
    """How sure, how large. Blocks of a classifier's errors are near enough to normal from about 20 errors a block."""

    false_suspect_hours: float = 24.0  # sensitivity in words, as for weighted_adwin ...
    records_per_s: float = 1_000.0
    threshold_sigmas: float | None = None  # ... or as the height of the sum
    slack_sigmas: float = 0.5  # half the change, in standard errors of a block, that is found soonest
    direction: str = "worse"  # "worse": a fall renews the reference but is only counted; "both": it is told too
    min_effect: float = 0.01  # in units of the values; a smaller change renews the reference untold
    block_records: int = 256  # a batch, typically: smaller is sooner on large changes, larger on small ones
    reference_records: int = 4096  # before that the reference is too uncertain to judge by

    def __post_init__(self) -> None:
        for name in ("false_suspect_hours", "records_per_s", "slack_sigmas"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"drift cusum: {name} is {getattr(self, name)}; expected a finite number above 0.")
        if self.threshold_sigmas is not None and not 0 < self.threshold_sigmas < math.inf:
            raise ConfigError(f"drift cusum: threshold_sigmas is {self.threshold_sigmas}; expected a number above 0.")
        if self.direction not in ("worse", "both"):
            raise ConfigError(f"drift cusum: direction is {self.direction!r}; expected worse or both.")
        if self.block_records < 2 or self.reference_records < 2 * self.block_records:
            raise ConfigError(
                f"drift cusum: block_records is {self.block_records} and reference_records {self.reference_records}; "
                "expected at least 2 records a block and two blocks of reference."
            )

    @property
    def height(self) -> float:
        if self.threshold_sigmas is not None:
            return self.threshold_sigmas
        blocks = self.false_suspect_hours * 3600 * self.records_per_s / self.block_records
        return threshold_for(blocks_between_false_suspects=blocks, slack_sigmas=self.slack_sigmas)


@dataclass(slots=True)
class _Stretch:
    """Count, mean and sum of squares about it, of consecutive blocks."""

    n: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    def add(self, n: float, mean: float, m2: float) -> None:
        gap = mean - self.mean
        total = self.n + n
        self.m2 += m2 + gap * gap * self.n * n / total
        self.mean += gap * n / total
        self.n = total


class BatchCusum:
    """Two-sided CUSUM over blocks; see the module for the sums, `CusumOptions` for the settings.

    `statistic` and `threshold` of a detection are the height of the sum, in standard errors of a block; `after` is the
    mean since the sum last left 0, which a few blocks from before the change may dilute.

    >>> import numpy as np
    >>> errors = (np.random.default_rng(0).random(60_000) < np.repeat([0.1, 0.15], 30_000)).astype(float)
    >>> [alarm] = BatchCusum().update(errors)
    >>> 30_000 <= alarm.index < 32_500, alarm.direction.value, round(alarm.after, 2)
    (True, 'up', 0.17)
    """

    name: ClassVar[str] = "cusum"
    options_type: ClassVar[type] = CusumOptions

    def __init__(self, options: CusumOptions | None = None) -> None:
        self.options = options or CusumOptions()
        self._height = self.options.height
        self._pending = np.zeros(0)
        self._reference = _Stretch()
        self._sums = {Direction.UP: 0.0, Direction.DOWN: 0.0}
        self._runs = {Direction.UP: _Stretch(), Direction.DOWN: _Stretch()}  # blocks since the sum left 0
        self.n_records = 0
        self.n_detections = {Direction.UP: 0, Direction.DOWN: 0}  # told or not

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        """Take the finite values of one batch; see contracts.DriftDetector."""
        block, n_pending = self.options.block_records, len(self._pending)
        values = np.concatenate([self._pending, values_N])
        n_blocks = len(values) // block
        blocks = values[: n_blocks * block].reshape(n_blocks, block)
        means = blocks.mean(axis=1)
        m2s = ((blocks - means[:, None]) ** 2).sum(axis=1)
        told = []
        for number, (mean, m2) in enumerate(zip(means.tolist(), m2s.tolist(), strict=True), start=1):
            direction = self._add(mean, m2)
            if direction is None:
                continue
            detection = self._change(direction, index=number * block - 1 - n_pending)
            wanted = direction is Direction.UP or self.options.direction == "both"
            if wanted and abs(detection.after - detection.before) >= self.options.min_effect:
                told.append(detection)
        self._pending = values[n_blocks * block :].copy()
        self.n_records += len(values_N)
        return told

    def evidence(self) -> tuple[float, float]:
        """The higher of the two sums (a falling one with a minus), and the height at which it fires."""
        up, down = self._sums[Direction.UP], self._sums[Direction.DOWN]
        return (up if up >= down else -down), self._height

    def capture(self) -> State:
        stretches = [self._reference, *self._runs.values()]
        return State(
            arrays={
                "pending": self._pending.copy(),
                "stretches": np.array([[s.n, s.mean, s.m2] for s in stretches]),
                "sums": np.array(list(self._sums.values())),
            },
            values={
                **identity(self.name, self.options),
                "n_records": self.n_records,
                "n_up": self.n_detections[Direction.UP],
                "n_down": self.n_detections[Direction.DOWN],
            },
        )

    def restore(self, state: State) -> None:
        refuse_stranger(state, identity(self.name, self.options))
        self._pending = np.array(state.arrays["pending"], dtype=np.float64)
        reference, up, down = (_Stretch(*row) for row in np.asarray(state.arrays["stretches"]).tolist())
        self._reference, self._runs = reference, {Direction.UP: up, Direction.DOWN: down}
        self._sums = dict(zip(self._sums, np.asarray(state.arrays["sums"]).tolist(), strict=True))
        self.n_records = state.values["n_records"]
        self.n_detections = {Direction.UP: state.values["n_up"], Direction.DOWN: state.values["n_down"]}

    def _add(self, mean: float, m2: float) -> Direction | None:
        """One block: move the sums, then the reference. Returns the direction of a sum that reached its height."""
        n, reference = float(self.options.block_records), self._reference
        if reference.n >= self.options.reference_records:
            variance = reference.m2 / reference.n * (1 / n + 1 / reference.n)
            gap = mean - reference.mean
            # A reference without any variance (a model that was never wrong): the first difference is beyond doubt.
            z = gap / math.sqrt(variance) if variance else math.copysign(math.inf, gap) if gap else 0.0
            for direction, sign in ((Direction.UP, 1.0), (Direction.DOWN, -1.0)):
                self._sums[direction] = max(0.0, self._sums[direction] + sign * z - self.options.slack_sigmas)
                if not self._sums[direction]:
                    self._runs[direction] = _Stretch()
                    continue
                self._runs[direction].add(n, mean, m2)
                if self._sums[direction] > self._height:
                    return direction
        reference.add(n, mean, m2)
        return None

    def _change(self, direction: Direction, index: int) -> Detection:
        """Tell the change, and start the reference again."""
        before, run = self._reference, self._runs[direction]
        detection = Detection(
            index=index,
            direction=direction,
            before=before.mean,
            after=run.mean,
            statistic=self._sums[direction],
            threshold=self._height,
            window_records=0,
        )
        self._reference = _Stretch()
        self._sums = dict.fromkeys(self._sums, 0.0)
        self._runs = {side: _Stretch() for side in self._runs}
        self.n_detections[direction] += 1
        return detection
