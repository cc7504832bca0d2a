"""River's ADWIN, KSWIN, PageHinkley and DDM behind our contract, fed one record at a time.

They are the second opinion and the oracle of our tests; the hot path is `weighted_adwin`. River starts again from
nothing after each detection, its counters included, so what is counted here is counted by us. Their memory is kept as
plain arrays, never as a pickle: a checkpoint needs no trust, only the same River version.
Refused: KSWIN without a seed (a run could not be repeated), DDM on anything but shares of errors (values are clipped
to [0, 1], for its variance is p(1 - p)).
Shape suffix: N = records in the batch.
"""

import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
from river import drift as river_drift
from river.drift.binary import DDM

from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.errors import ConfigError
from stream_trainer.types import Detection, Direction, State

__all__ = [
    "RiverAdwin",
    "RiverAdwinOptions",
    "RiverDdm",
    "RiverDdmOptions",
    "RiverKswin",
    "RiverKswinOptions",
    "RiverPageHinkley",
    "RiverPageHinkleyOptions",
]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverPageHinkleyOptions:
    """River's own names and defaults. They alarm about 15 to 64 times in 1e6 steady errors: raise `threshold`."""

    min_instances: int = 30
    delta: float = 0.005
    threshold: float = 50.0
    alpha: float = 0.9999  # fading of the sums, by record
    mode: str = "both"

    def __post_init__(self) -> None:
        if self.mode not in ("up", "down", "both"):
            raise ConfigError(f"drift page_hinkley: mode is {self.mode!r}; expected up, down or both.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverDdmOptions:
    """River's own names and defaults. Its mean never forgets: unfit for a process that runs for months."""

    warm_start: int = 30
    warning_threshold: float = 2.0
    drift_threshold: float = 3.0


@dataclass(slots=True)
class _Since:
    """What River's detector was fed since it last started from nothing.

    The marks are the count and the sum as they stood where, by the detector's own estimate, a rise or a fall began.
    """

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    n_rise: float = 0.0
    total_rise: float = 0.0
    n_fall: float = 0.0
    total_fall: float = 0.0

    def around(self, direction: Direction) -> tuple[float, float]:
        """Means before and after the mark; where none was set, both sides share the one mean there is."""
        up = direction is Direction.UP
        n_mark, total_mark = (self.n_rise, self.total_rise) if up else (self.n_fall, self.total_fall)
        if not 0 < n_mark < self.n:
            return self.total / self.n, self.total / self.n
        return total_mark / n_mark, (self.total - total_mark) / (self.n - n_mark)


class _RiverDetector:
    """The loop over records and the counting, common to the four."""

    name: ClassVar[str]
    options_type: ClassVar[type]

    def __init__(self, options: Any = None) -> None:
        self.options = self.options_type() if options is None else options
        self.n_records = 0
        self.n_detections = {Direction.UP: 0, Direction.DOWN: 0}
        self._since = _Since()
        self._river: Any = self._build()

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        """Feed the values one by one; see contracts.DriftDetector. Values are finite: the caller sees to that."""
        detections = []
        for index, value in enumerate(self._accepted(np.asarray(values_N, dtype=np.float64)).tolist()):
            since = self._since
            since.n += 1
            since.total += value
            since.squares += value * value
            self._river.update(value)
            if self._river.drift_detected:
                detection = self._claim(index, since)
                self.n_detections[detection.direction] += 1
                detections.append(detection)
                self._since = _Since()
            else:
                self._mark(since)
        self.n_records += len(values_N)
        return detections

    def capture(self) -> State:
        since = np.array(astuple(self._since))
        memory = {"since": since, "drifted": np.array([self._river.drift_detected]), **self._memory()}
        counts = {
            "n_records": self.n_records,
            "n_up": self.n_detections[Direction.UP],
            "n_down": self.n_detections[Direction.DOWN],
        }
        return State(arrays=memory, values={**self._identity(), **counts})

    def restore(self, state: State) -> None:
        refuse_stranger(state, self._identity())
        self.n_records = state.values["n_records"]
        self.n_detections = {Direction.UP: state.values["n_up"], Direction.DOWN: state.values["n_down"]}
        arrays = {name: np.asarray(array) for name, array in state.arrays.items()}
        self._since = _Since(*arrays["since"].tolist())
        self._river = self._build()
        self._river._drift_detected = bool(arrays["drifted"][0])
        self._recall(arrays)

    def _identity(self) -> dict[str, Any]:
        # Its private fields are what we store; another minor version may give them another meaning.
        return {**identity(self.name, self.options), "river": version("river")}

    def _accepted(self, values_N: np.ndarray) -> np.ndarray:
        return values_N

    def _mark(self, since: _Since) -> None:
        """Note in `since` that, for all the detector knows, no change has begun by now."""

    def _build(self) -> Any:
        raise NotImplementedError

    def _claim(self, index: int, since: _Since) -> Detection:
        raise NotImplementedError

    def _memory(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        raise NotImplementedError


class RiverAdwin(_RiverDetector):
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

    def _claim(self, index: int, since: _Since) -> Detection:
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


class RiverKswin(_RiverDetector):
    """Kolmogorov-Smirnov over a sliding window: sees any change of shape, not of the mean alone.

    The statistic is the p-value and the threshold `alpha`: here an alarm lies *below* its threshold. `before` is the
    mean of everything since the detector last started again, up to the `stat_size` newest values; `after` is theirs.
    """

    name = "kswin"
    options_type = RiverKswinOptions

    def _build(self) -> Any:
        return river_drift.KSWIN(**asdict(self.options))

    def _claim(self, index: int, since: _Since) -> Detection:
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


class RiverPageHinkley(_RiverDetector):
    """Page-Hinkley with a fading sum. `before` and `after` lie around the last extreme of the sum that fired."""

    name = "page_hinkley"
    options_type = RiverPageHinkleyOptions

    def _build(self) -> Any:
        return river_drift.PageHinkley(**asdict(self.options))

    def _mark(self, since: _Since) -> None:
        river = self._river
        if river._sum_increase == river._min_increase:
            since.n_rise, since.total_rise = since.n, since.total
        if river._sum_decrease == river._max_decrease:
            since.n_fall, since.total_fall = since.n, since.total

    def _claim(self, index: int, since: _Since) -> Detection:
        river = self._river
        up = river._sum_increase - river._min_increase
        down = river._max_decrease - river._sum_decrease
        rising = up >= down if self.options.mode == "both" else self.options.mode == "up"
        direction = Direction.UP if rising else Direction.DOWN
        before, after = since.around(direction)
        return Detection(
            index=index,
            direction=direction,
            before=before,
            after=after,
            statistic=up if rising else down,
            threshold=self.options.threshold,
            window_records=0,
        )

    def _memory(self) -> dict[str, np.ndarray]:
        river = self._river
        mean = river._x_mean
        sums = [river._sum_increase, river._sum_decrease, river._min_increase, river._max_decrease]
        return {"sums": np.array([mean.n, mean.get(), *sums])}

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        river = self._river
        n, mean, *sums = arrays["sums"].tolist()
        river._x_mean = type(river._x_mean)._from_state(n, mean)
        river._sum_increase, river._sum_decrease, river._min_increase, river._max_decrease = sums


class RiverDdm(_RiverDetector):
    """Drift detection method (Gama 2004): sees errors rise, never fall. Values are clipped to [0, 1].

    The statistic is p + s, the threshold p_min + drift_threshold * s_min; `after` is the mean since that minimum.
    """

    name = "ddm"
    options_type = RiverDdmOptions

    def _build(self) -> Any:
        return DDM(**asdict(self.options))

    def _accepted(self, values_N: np.ndarray) -> np.ndarray:
        return np.clip(values_N, 0.0, 1.0)

    def _mark(self, since: _Since) -> None:
        if self._river._p_min == self._river._p.get():
            since.n_rise, since.total_rise = since.n, since.total

    def _claim(self, index: int, since: _Since) -> Detection:
        river, p = self._river, since.total / since.n
        before, after = since.around(Direction.UP)
        return Detection(
            index=index,
            direction=Direction.UP,
            before=before,
            after=after,
            statistic=p + math.sqrt(max(p * (1 - p), 0.0) / since.n),
            threshold=river._p_min + self.options.drift_threshold * river._s_min,
            window_records=0,
        )

    def _memory(self) -> dict[str, np.ndarray]:
        river = self._river
        least = [math.nan if value is None else value for value in (river._p_min, river._s_min)]
        return {"shares": np.array([river._p.n, river._p.get(), *least, river._ps_min])}

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        river = self._river
        n, mean, p_min, s_min, ps_min = arrays["shares"].tolist()
        river._p = type(river._p)._from_state(n, mean)
        river._p_min, river._s_min = (None if math.isnan(value) else value for value in (p_min, s_min))
        river._ps_min = ps_min
