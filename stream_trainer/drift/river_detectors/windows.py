"""ADWIN and KSWIN: two windows compared, by their means and by their shapes.

Refused: KSWIN without a seed (a run could not be repeated).
"""

import math
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from river import drift as river_drift

from stream_trainer.drift.river_detectors.base import RiverDetector, Since
from stream_trainer.errors import ConfigError
from stream_trainer.types import Detection, Direction

__all__ = ["RiverAdwin", "RiverAdwinOptions", "RiverKswin", "RiverKswinOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverAdwinOptions:
    """River's own names and defaults."""

    delta: float = 0.002  # confidence of one test; about one false alarm in 2.6e7 records of steady errors
    clock: int = 32  # records between two tests; 1 is 3 to 5 times slower and at best 31 records sooner
    max_buckets: int = 5
    min_window_length: int = 5
    grace_period: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverKswinOptions:
    """River's own names and defaults, but seeded. About 3,000 records a second: for slow streams only."""

    alpha: float = 0.005
    window_size: int = 100
    stat_size: int = 30
    seed: int = 0  # it samples its reference at random; two runs must agree

    def __post_init__(self) -> None:
        if not 1 <= self.stat_size <= self.window_size // 2:
            raise ConfigError(
                f"drift kswin: stat_size is {self.stat_size} and window_size {self.window_size}; "
                "expected stat_size between 1 and half of window_size."
            )


class RiverAdwin(RiverDetector):
    """Adaptive windowing (Bifet and Gavaldà 2007), two-sided, as River has it.

    The statistic is the difference of means across the reported cut, the threshold ADWIN's bound at that cut. River
    goes on dropping old buckets after the first cut that convinced it, so the statistic can end below the threshold.

    >>> import numpy as np
    >>> detector = RiverAdwin()
    >>> detector.update(np.zeros(1000)), [d.index for d in detector.update(np.ones(64))]
    ([], [23])
    """

    name = "adwin"
    options_type = RiverAdwinOptions

    def _build(self) -> Any:
        return river_drift.ADWIN(**asdict(self.options))

    def _claim(self, index: int, since: Since) -> Detection:
        n_after = float(self._river.width)
        n_before = since.n - n_after
        after = self._river.estimation
        before = (since.total - self._river.total) / n_before
        variance = max(since.squares / since.n - (since.total / since.n) ** 2, 0.0)
        cost = math.log(2 * math.log(since.n) / self.options.delta) * (1 / n_before + 1 / n_after)
        return Detection(
            index=index,
            direction=Direction.UP if after >= before else Direction.DOWN,
            before=before,
            after=after,
            statistic=abs(after - before),
            threshold=math.sqrt(2 * variance * cost) + 2 / 3 * cost,
            window_records=int(n_after),
        )

    def _memory(self) -> dict[str, np.ndarray]:
        return {"window": np.frombuffer(self._river._helper.__getstate__(), dtype=np.uint8).copy()}

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._river._helper.__setstate__(arrays["window"].astype(np.uint8).tobytes())


class RiverKswin(RiverDetector):
    """Kolmogorov-Smirnov over a sliding window: sees any change of shape, not of the mean alone.

    The statistic is the p-value and the threshold `alpha`: here an alarm lies *below* its threshold. `before` is the
    mean of everything since the detector last started again, up to the `stat_size` newest values; `after` is theirs.
    """

    name = "kswin"
    options_type = RiverKswinOptions

    def _build(self) -> Any:
        return river_drift.KSWIN(**asdict(self.options))

    def _claim(self, index: int, since: Since) -> Detection:
        newest = list(self._river.window)
        after = math.fsum(newest) / len(newest)
        before = (since.total - math.fsum(newest)) / (since.n - len(newest))
        return Detection(
            index=index,
            direction=Direction.UP if after >= before else Direction.DOWN,
            before=before,
            after=after,
            statistic=float(self._river.p_value),
            threshold=self.options.alpha,
            window_records=len(newest),
        )

    def _memory(self) -> dict[str, np.ndarray]:
        _version, words, _gauss = self._river._rng.getstate()
        return {
            "window": np.array(self._river.window, dtype=np.float64),
            "rng": np.array(words, dtype=np.uint32),
            "p_value_and_n": np.array([self._river.p_value, self._river.n], dtype=np.float64),
        }

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        river = self._river
        river.window = deque(arrays["window"].tolist(), maxlen=self.options.window_size)
        p_value, n = arrays["p_value_and_n"].tolist()
        river.p_value, river.n = p_value, int(n)
        river._rng = random.Random()
        river._rng.setstate((3, tuple(arrays["rng"].tolist()), None))
