"""A mean against its own past: for values that wander although nothing happens, such as the doubt of a model.

A network's doubt about its answers moves as long as it learns, and with every stretch of alike records; a test for any
change of the mean finds one there without end (on inputs that are alike for some hundred records weighted ADWIN told 79
changes in 100,000, and none was one). So the mean of each 1,024 values is compared with the means before it: what they
strayed by themselves is the yardstick (usual.py). The price is power: small changes are not seen, and none sooner than
the next mean. Measured beside the others: tests/benchmarks/drift_label_free_*.md.
Refused: falls. A model that learns becomes surer, and errors that fall are no trouble.
Shape suffix: N = values in the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.drift.usual import Usual
from stream_trainer.errors import ConfigError
from stream_trainer.types import Detection, Direction, State

__all__ = ["OwnPast", "OwnPastOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPastOptions:
    """How far, how large, and how long a past is."""

    look_records: int = 1024  # of one mean: shorter ones wander more and are told no sooner
    sigmas: float = 4.0  # of the past means; 3 would pass by chance once in 700 looks, 4 once in 30,000
    min_effect: float = 0.01  # in units of the values: a steady doubt has next to no spread, and trifles are beyond it
    half_life_records: int = 16_384  # looks weigh as 46, so the spread is known to a tenth
    warmup_records: int = 8_192  # a network in its first records changes more than any stream

    def __post_init__(self) -> None:
        for name in ("sigmas", "half_life_records"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"drift own_past: {name} is {getattr(self, name)}; expected a finite number above 0.")
        if not 0 <= self.min_effect < math.inf:
            raise ConfigError(f"drift own_past: min_effect is {self.min_effect}; expected a finite number, 0 or more.")
        if self.look_records < 1 or self.warmup_records < 2 * self.look_records:
            raise ConfigError(
                f"drift own_past: look_records is {self.look_records} and warmup_records {self.warmup_records}; "
                "expected at least 1, and two looks of warm-up."
            )


class OwnPast:
    """Means of `look_records` values against those before; see the module for the rule, `OwnPastOptions` for settings.

    >>> import numpy as np
    >>> doubt = np.random.default_rng(0).beta(2, 8, 40_000) + np.repeat([0.0, 0.1], [30_000, 10_000])
    >>> [(alarm.index, alarm.direction.value, round(alarm.after, 1)) for alarm in OwnPast().update(doubt)]
    [(30719, 'up', 0.3)]
    """

    name: ClassVar[str] = "own_past"
    options_type: ClassVar[type] = OwnPastOptions

    def __init__(self, options: OwnPastOptions | None = None) -> None:
        self.options = options or OwnPastOptions()
        self._keep = 0.5 ** (self.options.look_records / self.options.half_life_records)
        self._pending = np.zeros(0)  # values of the mean that has begun
        self._usual = Usual()
        self.n_records = 0
        self.n_detections = {Direction.UP: 0, Direction.DOWN: 0}

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        """Take the finite values of one batch; see contracts.DriftDetector."""
        look, n_pending = self.options.look_records, len(self._pending)
        self.n_records += len(values_N)
        values = np.concatenate([self._pending, values_N])
        told = []
        for end in range(look, len(values) + 1, look):
            usual = self._usual.mean
            if self._is_beyond(float(values[end - look : end].mean())):
                told.append(self._describe(end - 1 - n_pending, usual))
        self._pending = values[len(values) // look * look :].copy()
        self.n_detections[Direction.UP] += len(told)
        return told

    def _is_beyond(self, mean: float) -> bool:
        if self._usual.looks * self.options.look_records < self.options.warmup_records:
            self._usual.learn(mean, self._keep)
            return False
        return self._usual.judge(mean, self._keep, sigmas=self.options.sigmas, margin_min=self.options.min_effect)

    def _describe(self, index: int, usual: float) -> Detection:
        return Detection(
            index=index,
            direction=Direction.UP,
            before=usual,
            after=self._usual.value,
            statistic=self._usual.value - usual,
            threshold=self._usual.threshold - usual,
            window_records=self.options.look_records,
        )

    def evidence(self) -> tuple[float, float]:
        """The last mean, and where it would have been told; (0, inf) before the first."""
        return self._usual.value, self._usual.threshold

    def capture(self) -> State:
        usual = asdict(self._usual)
        usual["threshold"] = None if usual["threshold"] == math.inf else usual["threshold"]  # JSON has no infinity
        counts = {"n_records": self.n_records, "n_up": self.n_detections[Direction.UP]}
        return State(
            arrays={"pending": self._pending.copy()},
            values={**identity(self.name, self.options), "usual": usual, **counts},
        )

    def restore(self, state: State) -> None:
        refuse_stranger(state, identity(self.name, self.options))
        usual = state.values["usual"]
        self._usual = Usual(**{**usual, "threshold": math.inf if usual["threshold"] is None else usual["threshold"]})
        self._pending = np.array(state.arrays["pending"], dtype=np.float64)
        self.n_records = state.values["n_records"]
        self.n_detections = {Direction.UP: state.values["n_up"], Direction.DOWN: 0}
