"""HDDM: averages before and after a cut, compared by Hoeffding's bound (A) or, weighted, by McDiarmid's (W).

Refused: anything but shares of errors; values are clipped to [0, 1], the range that both bounds are made for.
Measured (tests/benchmarks/drift_bench_*.md): the quickest on Agrawal's large changes; W, whose memory is about 20
records long, misses most small ones; both take five times the CPU of Page-Hinkley.
Source: Frías-Blanco et al., "Online and Non-Parametric Drift Detection Methods Based on Hoeffding's Bounds", 2014.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from river.drift.binary import HDDMA, HDDMW

from stream_trainer.drift.river_detectors.base import RiverDetector, Since
from stream_trainer.types import Detection, Direction

__all__ = ["RiverHddmA", "RiverHddmAOptions", "RiverHddmW", "RiverHddmWOptions"]

_SAMPLES_W = ("_total", "_s1_incr", "_s2_incr", "_s1_decr", "_s2_decr")  # what HDDMW remembers, in the order we keep it


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverHddmAOptions:
    """River's own names and defaults."""

    drift_confidence: float = 0.001  # of one record's test
    two_sided_test: bool = False  # a fall is told too


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverHddmWOptions:
    """River's own names and defaults."""

    drift_confidence: float = 0.001  # of one record's test
    lambda_val: float = 0.05  # weight of the newest record: the memory is about 20 records long
    two_sided_test: bool = False  # a fall is told too


class RiverHddmA(RiverDetector):
    """The mean up to the best cut against the mean of all. `before` and `after` lie around that cut.

    >>> detector = RiverHddmA()
    >>> detector.update(np.tile([0.0, 0.0, 0.0, 1.0], 500)), [d.index for d in detector.update(np.ones(64))]
    ([], [5])
    """

    name = "hddm_a"
    options_type = RiverHddmAOptions

    def _build(self) -> Any:
        return HDDMA(**asdict(self.options))

    def _accepted(self, values_N: np.ndarray) -> np.ndarray:
        return np.clip(values_N, 0.0, 1.0)

    def _claim(self, index: int, since: Since) -> Detection:
        river, confidence = self._river, self.options.drift_confidence
        rising = river._mean_incr(confidence)
        cut, whole = river._x_min if rising else river._x_max, river._z
        n_after = whole.n - cut.n
        return Detection(
            index=index,
            direction=Direction.UP if rising else Direction.DOWN,
            before=cut.get(),
            after=(whole.n * whole.get() - cut.n * cut.get()) / n_after,
            statistic=abs(whole.get() - cut.get()),
            threshold=math.sqrt(n_after / cut.n / whole.n / 2 * math.log(2.0 / confidence)),
            window_records=0,
        )

    def _memory(self) -> dict[str, np.ndarray]:
        means = (self._river._x_min, self._river._x_max, self._river._z)
        return {"means": np.array([[mean.n, mean.get()] for mean in means])}

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        river = self._river
        mean = type(river._z)
        river._x_min, river._x_max, river._z = (mean._from_state(*row) for row in arrays["means"].tolist())


class RiverHddmW(RiverDetector):
    """As A, with means in which a record counts the less the older it is; `before` and `after` are such means.

    >>> detector = RiverHddmW()
    >>> detector.update(np.tile([0.0, 0.0, 0.0, 1.0], 500)), [d.index for d in detector.update(np.ones(64))]
    ([], [14])
    """

    name = "hddm_w"
    options_type = RiverHddmWOptions

    def _build(self) -> Any:
        return HDDMW(**asdict(self.options))

    def _accepted(self, values_N: np.ndarray) -> np.ndarray:
        return np.clip(values_N, 0.0, 1.0)

    def _claim(self, index: int, since: Since) -> Detection:
        river, confidence = self._river, self.options.drift_confidence
        rising = river._detect_mean_incr(confidence)
        old, new = (river._s1_incr, river._s2_incr) if rising else (river._s1_decr, river._s2_decr)
        return Detection(
            index=index,
            direction=Direction.UP if rising else Direction.DOWN,
            before=old.ewma,
            after=new.ewma,
            statistic=abs(new.ewma - old.ewma),
            threshold=river._mcdiarmid_bound(old.ibc + new.ibc, confidence),
            window_records=0,
        )

    def _memory(self) -> dict[str, np.ndarray]:
        samples = [getattr(self._river, name) for name in _SAMPLES_W]
        return {
            "means": np.array([list(sample._ewma._ewmean.__getstate__()) for sample in samples], dtype=np.uint8),
            "bounds": np.array([[sample.ibc, sample.is_init] for sample in samples]),
            "cuts": np.array([self._river._incr_cutpoint, self._river._decr_cutpoint]),
        }

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        river = self._river
        for name, mean, (ibc, is_init) in zip(_SAMPLES_W, arrays["means"], arrays["bounds"].tolist(), strict=True):
            sample = getattr(river, name)
            sample._ewma._ewmean.__setstate__(mean.astype(np.uint8).tobytes())
            sample._ibc, sample._is_init = ibc, bool(is_init)
        river._incr_cutpoint, river._decr_cutpoint = arrays["cuts"].tolist()
