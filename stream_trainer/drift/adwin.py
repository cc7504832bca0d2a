"""Adaptive windowing for batches: finds the record at which the mean of a stream changed, whatever the batch size.

The stream is summed in blocks of `block_records`, on a grid counted from its first record. The window is a list of
boundaries between blocks, each with the count, sum and sum of squares up to there, so the numbers of any stretch
(n, sum, M2) are the difference of two boundaries, and merging two buckets is forgetting the boundary between them.
A boundary is kept while its age in blocks is at most `resolution` times the largest power of two that divides its
position: `resolution / 2` boundaries for each doubling of the age, so memory grows with the logarithm of the window.
At the end of each block every boundary is tested as a cut, old part against new part.

All of this depends on positions in the stream alone. Where the batches are cut changes nothing but the batch in which
a detection is told: same record, same numbers, bit for bit. Relation to ADWIN fed record by record: the same test
(equation 3.1 of the paper, as River has it) at the same clock of 32 records, on cuts at multiples of 32.

Refused: means of batches as values. The bound believes that each value has range 1, so a mean of 256 would count as
one record and a change of .10 to .30 stays unseen for 11,878 records instead of 128.
Shape suffixes: N = values in the batch, T = block ends under test, B = boundaries; 4 = the rows of the window.
Source: Bifet and Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from stream_trainer.drift.calm import Calm
from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.errors import ConfigError
from stream_trainer.types import Detection, Direction, State

__all__ = ["AdwinOptions", "WeightedAdwin", "delta_for"]

_BLOCKS_AT_ONCE = 32  # rows of the test matrix: bounds its memory, and 1024 records is where the speed levels off
_POSITION, _SUM, _SQUARES, _REACH = range(4)  # rows of the window
_SCALE_MEANS = 4.0  # automatic `value_max`, in means: 2 % of an exponential, 0.1 % of a half-normal lie above


def delta_for(*, false_suspect_hours: float, records_per_s: float, block_records: int = 32) -> float:
    """The confidence of one test that keeps false suspects, in expectation, to one in `false_suspect_hours`.

    There is one test per block, so H hours at R records/s hold H * 3600 * R / block_records tests. An expectation adds
    up whether or not the tests are independent; with delta = 1 / tests it is at most one. That a test errs no more
    often than delta is the paper's claim, which shares delta over ln(n) cuts; neighbouring cuts and tests nearly agree,
    so independent errors raise far fewer (measured: tests/benchmarks/drift_detection_*.md). Errors that wander are not
    independent: for those there is `min_effect`.

    >>> f"{delta_for(false_suspect_hours=24, records_per_s=100_000):.1e}"
    '3.7e-09'
    """
    return min(block_records / (false_suspect_hours * 3600 * records_per_s), 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdwinOptions:
    """How sure, how large, how often. The defaults are for the errors of a classifier, 0 or 1."""

    false_suspect_hours: float = 24.0  # sensitivity in words: in this time, at this rate, at most one false suspect
    records_per_s: float = 1_000.0  # on steady errors suspects are, measured, over 100 times rarer than asked for
    delta: float | None = None  # confidence of one test, instead of the two above; River's ADWIN has 0.002
    direction: str = "worse"  # "worse": improvements move the window but are only counted; "both": they are told too
    min_effect: float = 0.01  # in units of value_max: streams wander by a few thousandths without meaning anything
    refractory_records: int = 1024  # one change is told once: evidence gathered meanwhile is kept and told after it
    value_max: float | None = 1.0  # larger values count as this; None: 4 means of each window's first records
    warmup_records: int = 256  # a shorter window is not tested
    block_records: int = 32  # grid of the tests, the clock of River's ADWIN: at most 31 records later than at once
    resolution: int = 8  # a cut is placed to within a quarter of its age; boundaries kept grow in proportion

    def __post_init__(self) -> None:
        positive = {"false_suspect_hours": self.false_suspect_hours, "records_per_s": self.records_per_s}
        for name, value in {**positive, "value_max": 1.0 if self.value_max is None else self.value_max}.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"drift weighted_adwin: {name} is {value}; expected a finite number above 0.")
        if self.delta is not None and not 0 < self.delta < 1:
            raise ConfigError(f"drift weighted_adwin: delta is {self.delta}; expected a number between 0 and 1.")
        if self.direction not in ("worse", "both"):
            raise ConfigError(f"drift weighted_adwin: direction is {self.direction!r}; expected worse or both.")
        if not 0 <= self.min_effect < 1:
            raise ConfigError(f"drift weighted_adwin: min_effect is {self.min_effect}; expected 0 or more, below 1.")
        if self.refractory_records < 0:
            raise ConfigError(f"drift weighted_adwin: refractory_records is {self.refractory_records}; expected >= 0.")
        if self.block_records < 1 or self.resolution < 2 or self.warmup_records < 2 * self.block_records:
            raise ConfigError(
                f"drift weighted_adwin: block_records {self.block_records}, resolution {self.resolution}, "
                f"warmup_records {self.warmup_records}; expected at least 1, 2 and two blocks."
            )

    @property
    def delta_per_test(self) -> float:
        if self.delta is not None:
            return self.delta
        return delta_for(
            false_suspect_hours=self.false_suspect_hours,
            records_per_s=self.records_per_s,
            block_records=self.block_records,
        )


class WeightedAdwin:
    """ADWIN that takes whole batches; see the module for how it works, `AdwinOptions` for the settings.

    Values are errors or losses, not negative; what exceeds `value_max` counts as `value_max`, so the bound, which needs
    a known range, holds for squared errors and log-losses too, and one absurd record cannot raise an alarm alone.
    With `value_max=None` the range is four times the mean of the first `warmup_records`, taken anew after each change
    of the mean; `min_effect` is a share of that range.

    >>> import numpy as np
    >>> detector = WeightedAdwin()
    >>> calm = detector.update(np.tile([0.0, 0.0, 0.0, 1.0], 5000))
    >>> [alarm] = detector.update(np.tile([0.0, 1.0], 400))
    >>> alarm.index, alarm.direction.value, alarm.before, alarm.after, alarm.window_records
    (223, 'up', 0.25, 0.5, 224)
    """

    name: ClassVar[str] = "weighted_adwin"
    options_type: ClassVar[type] = AdwinOptions

    def __init__(self, options: AdwinOptions | None = None) -> None:
        self.options = options or AdwinOptions()
        self._delta = self.options.delta_per_test
        self._value_max = self.options.value_max  # None: to be taken from the next warm-up
        self._pending = np.zeros(0)  # values of calm blocks, of the block that has begun, or of the warm-up
        self._n_calm = 0  # pending blocks of which it is proven that no test would tell a change
        self._calm: Calm | None = None
        # One column a boundary, the first is the start of the window. Rows: position in blocks since the stream began,
        # sum and sum of squares of the values up to there in units of value_max, age in blocks up to which it is kept.
        self._window_4B = np.zeros((4, 1))
        self._armed_at = 0  # no test before this block
        self.n_records = 0
        self.n_detections = {Direction.UP: 0, Direction.DOWN: 0}  # told or not

    @property
    def window_records(self) -> int:
        """Values between the start of the window and the last boundary."""
        self._settle()
        return int(self._window_4B[_POSITION, -1] - self._window_4B[_POSITION, 0]) * self.options.block_records

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        """Take the values of one batch, each finite and not negative; see contracts.DriftDetector."""
        self.n_records += len(values_N)
        n_before, self._pending = len(self._pending), np.concatenate([self._pending, values_N])
        n_blocks = len(self._pending) // self.options.block_records
        if n_blocks == self._n_calm or (n_blocks <= _BLOCKS_AT_ONCE and self._stays_calm(n_blocks)):
            return ()
        n_before -= self._settle()
        return self._look(n_before)

    def _look(self, n_before: int) -> list[Detection]:
        """Test all whole blocks that are pending; `n_before` of these values came before the batch."""
        values, block, start, told = self._pending, self.options.block_records, 0, list[Detection]()
        while self._knows_range(values[start:]) and (n_blocks := (len(values) - start) // block):
            n_blocks = min(n_blocks, _BLOCKS_AT_ONCE)
            n_taken, detection = self._take(self._scaled(values[start : start + n_blocks * block]))
            start += n_taken * block
            if detection is not None and (detection.direction is Direction.UP or self.options.direction == "both"):
                told.append(replace(detection, index=start - 1 - n_before))
                self._armed_at = int(self._window_4B[_POSITION, -1]) + -(-self.options.refractory_records // block)
        self._pending = values[start:].copy()
        self._calm = self._calm_now()
        return told

    def evidence(self) -> tuple[float, float]:
        """Difference of means at the most telling cut of the window as it is, and what it is compared with.

        In the unit of the values. (0, inf) while the window is too short to be tested.
        """
        self._settle()
        if self.window_records < self.options.warmup_records or self._value_max is None:
            return 0.0, math.inf
        excess_B, bound_B, n_B = (
            table_TB[0, 1:-1] for table_TB in self._compare(*self._moments(self._window_4B[:, -1:]))
        )
        best = int(np.argmax(np.abs(excess_B) / bound_B))
        unit = self._value_max / float(n_B[best])
        return float(excess_B[best]) * unit, float(bound_B[best]) * unit

    def capture(self) -> State:
        self._settle()
        return State(
            arrays={"pending": self._pending.copy(), "window": self._window_4B.copy()},
            values={
                **identity(self.name, self.options),
                "value_max": self._value_max,
                "armed_at": self._armed_at,
                "n_records": self.n_records,
                "n_up": self.n_detections[Direction.UP],
                "n_down": self.n_detections[Direction.DOWN],
            },
        )

    def restore(self, state: State) -> None:
        refuse_stranger(state, identity(self.name, self.options))
        self._pending = np.array(state.arrays["pending"], dtype=np.float64)
        self._window_4B = np.array(state.arrays["window"], dtype=np.float64)
        self._value_max = state.values["value_max"]
        self._armed_at = state.values["armed_at"]
        self.n_records = state.values["n_records"]
        self.n_detections = {Direction.UP: state.values["n_up"], Direction.DOWN: state.values["n_down"]}
        self._n_calm, self._calm = 0, self._calm_now()

    # ------------------------------------------------------------ nothing has happened

    def _stays_calm(self, n_blocks: int) -> bool:
        """Whether no test at the end of any pending block could find a cut; False: not proven."""
        if self._calm is None:
            return False
        fresh = slice(self._n_calm * self.options.block_records, n_blocks * self.options.block_records)
        if not self._calm.holds(np.add.reduce(self._scaled(self._pending[fresh]), axis=1).tolist()):
            return False
        self._n_calm = n_blocks
        return True

    def _settle(self) -> int:
        """Add the blocks of which calm is proven to the window; returns how many values they were."""
        n_values = self._n_calm * self.options.block_records
        if n_values:
            self._add(self._scaled(self._pending[:n_values]))
            self._keep(slice(None))
            self._pending, self._n_calm = self._pending[n_values:], 0
            self._calm = self._calm_now()
        return n_values

    def _calm_now(self) -> Calm | None:
        """Of the window as it is; None where nothing can be proven."""
        n_B, sum_B = self._old_parts()
        if self._value_max is None or n_B[-1] < self.options.warmup_records:
            return None
        _, _, variance_1 = self._moments(self._window_4B[:, -1:])
        return Calm(
            n_B,
            sum_B,
            variance=float(variance_1[0]),
            log=math.log(2.0 / self._delta * math.log(n_B[-1])),
            min_effect=self.options.min_effect,
            block=self.options.block_records,
        )

    # ------------------------------------------------------------ one stretch of whole blocks

    def _knows_range(self, values: np.ndarray) -> bool:
        if self._value_max is None and len(values) >= self.options.warmup_records:
            mean = float(values[: self.options.warmup_records].mean())
            # A warm-up of zeros: any value above 0 then counts as much as can be, which is what it means.
            self._value_max = max(_SCALE_MEANS * mean, float(np.finfo(np.float64).tiny))
        return self._value_max is not None

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        """(blocks, block_records) of whole blocks, clipped and in units of value_max."""
        assert self._value_max is not None
        rows = np.minimum(values, self._value_max).reshape(-1, self.options.block_records)
        return rows if self._value_max == 1.0 else rows / self._value_max

    def _add(self, scaled: np.ndarray) -> int:
        """Append the boundaries of these blocks; returns how many there were before."""
        n_old = self._window_4B.shape[1]
        self._window_4B = np.concatenate([self._window_4B, self._boundaries(scaled)], axis=1)
        return n_old

    def _take(self, scaled: np.ndarray) -> tuple[int, Detection | None]:
        """Add blocks (rows) up to the first one that completes evidence of a change.

        Returns: blocks taken, and the detection, its index still to be set.
        """
        n_old = self._add(scaled)
        cut = self._first_cut(n_old)
        if cut is None:
            self._keep(slice(None))
            return len(scaled), None
        end, boundary = cut
        detection = self._describe(end, boundary)
        self.n_detections[detection.direction] += 1
        if self.options.value_max is None:
            boundary = end  # the old values were clipped to the old range and cannot be told in the new one
            self._value_max = None
        self._keep(slice(boundary, end + 1))
        return end + 1 - n_old, detection

    def _boundaries(self, scaled: np.ndarray) -> np.ndarray:
        """The columns of the window that these blocks add."""
        last_4 = self._window_4B[:, -1]
        position = int(last_4[_POSITION]) + 1 + np.arange(len(scaled))
        new_4B = np.empty((4, len(scaled)))
        new_4B[_POSITION] = position
        np.add.reduce(scaled, axis=1, out=new_4B[_SUM])
        np.add.reduce(scaled * scaled, axis=1, out=new_4B[_SQUARES])
        new_4B[_REACH] = self.options.resolution * (position & -position)
        # One running sum from boundary to boundary: the rounding, too, does not depend on how the stream was cut.
        totals_2B = new_4B[_SUM : _SQUARES + 1]
        totals_2B[:, 0] += last_4[_SUM : _SQUARES + 1]
        np.add.accumulate(totals_2B, axis=1, out=totals_2B)
        return new_4B

    def _first_cut(self, n_old: int) -> tuple[int, int] | None:
        """First new boundary at which some cut is beyond its bound, and the most telling cut there; None: none is."""
        position_B, reach_B = self._window_4B[_POSITION], self._window_4B[_REACH]
        tested_from = max(position_B[0] + -(-self.options.warmup_records // self.options.block_records), self._armed_at)
        first = max(n_old, len(position_B) - 1 - int(position_B[-1] - tested_from))
        if first >= len(position_B):
            return None
        moments_3T = self._moments(self._window_4B[:, first:])
        if len(position_B) - first > 2 and not self._may_cut(position_B[first], *moments_3T):
            return None  # nearly always: the matrix is paid for when something may have happened
        excess_TB, bound_TB, _ = self._compare(*moments_3T)
        strength_TB = np.abs(excess_TB, out=excess_TB)
        beyond_TB = strength_TB > bound_TB
        if not beyond_TB.any():
            return None
        age_TB = np.subtract.outer(position_B[first:], position_B)
        beyond_TB &= (age_TB > 0) & (age_TB <= reach_B)
        beyond_TB[:, 0] = False  # the start of the window cuts nothing off
        rows = np.flatnonzero(beyond_TB.any(axis=1))
        if not len(rows):
            return None
        row = rows[0]
        return first + int(row), int(np.argmax(np.where(beyond_TB[row], strength_TB[row] / bound_TB[row], 0.0)))

    def _moments(self, ends_4T: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Records, mean and variance of the windows that end at T."""
        start_4 = self._window_4B[:, 0]
        n_T = (ends_4T[_POSITION] - start_4[_POSITION]) * float(self.options.block_records)
        mean_T = (ends_4T[_SUM] - start_4[_SUM]) / n_T
        variance_T = (ends_4T[_SQUARES] - start_4[_SQUARES]) / n_T - mean_T * mean_T
        return n_T, mean_T, np.maximum(variance_T, 0.0, out=variance_T)

    def _old_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Records and sum from the start of the window to each boundary."""
        n_B = (self._window_4B[_POSITION] - self._window_4B[_POSITION, 0]) * float(self.options.block_records)
        return n_B, self._window_4B[_SUM] - self._window_4B[_SUM, 0]

    def _may_cut(self, position: float, n_T: np.ndarray, mean_T: np.ndarray, variance_T: np.ndarray) -> bool:
        """Whether any cut could be beyond its bound at any end; False is certain. `position`: of the first end.

        Costs a row where `_compare` costs a matrix. For a given cut the excess is linear in the mean of the window, so
        its extremes are at the extreme means; the bound is least for the least variance, at the first end after it.
        """
        n_B, sum_B = self._old_parts()
        excess_B = np.maximum(mean_T.max() * n_B - sum_B, sum_B - mean_T.min() * n_B)
        n_new_B = np.maximum(position - self._window_4B[_POSITION], 1.0) * float(self.options.block_records)
        harmonic_B = n_B * n_new_B / (n_B + n_new_B)
        log = math.log(2.0 / self._delta * math.log(n_T[0]))
        bound_B = np.sqrt(2.0 * float(variance_T.min()) * log * harmonic_B) + 2.0 / 3.0 * log
        if self.options.min_effect:
            bound_B = np.maximum(bound_B, self.options.min_effect * harmonic_B)
        return bool((excess_B > bound_B * (1.0 - 1e-6)).any())  # the matrix may round otherwise

    def _compare(
        self, n_T: np.ndarray, mean_T: np.ndarray, variance_T: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What each cut B says of each window T: the excess of the new part, its bound, and the harmonic count h.

        The excess is the sum of the new part less its share of the window's mean: h times the difference of means, with
        1/h = 1/n_old + 1/n_new. Its bound is h times that of the paper, sqrt(2 v l / h) + 2/3 l / h, where v is the
        variance of the window and l = ln(2 ln(n) / delta), and at least h times `min_effect`. Where B is not inside
        the window the numbers mean nothing; the caller masks them.
        """
        n_B, sum_B = self._old_parts()
        log_T = np.log(2.0 / self._delta * np.log(n_T))
        excess_TB = np.multiply.outer(mean_T, n_B) - sum_B
        harmonic_TB = n_B - np.multiply.outer(1.0 / n_T, n_B * n_B)
        bound_TB = np.sqrt(np.abs((2.0 * variance_T * log_T)[:, None] * harmonic_TB))
        bound_TB += (2.0 / 3.0 * log_T)[:, None]
        if self.options.min_effect:
            np.maximum(bound_TB, self.options.min_effect * harmonic_TB, out=bound_TB)
        return excess_TB, bound_TB, harmonic_TB

    def _describe(self, end: int, boundary: int) -> Detection:
        assert self._value_max is not None
        _, bound_TB, harmonic_TB = self._compare(*self._moments(self._window_4B[:, end : end + 1]))
        position, total = self._window_4B[: _SUM + 1, [0, boundary, end]]
        n_before, n_after = (np.diff(position) * self.options.block_records).tolist()
        sum_before, sum_after = np.diff(total).tolist()
        before, after = sum_before / n_before * self._value_max, sum_after / n_after * self._value_max
        return Detection(
            index=0,
            direction=Direction.UP if after > before else Direction.DOWN,
            before=before,
            after=after,
            statistic=abs(after - before),
            threshold=float(bound_TB[0, boundary] / harmonic_TB[0, boundary]) * self._value_max,
            window_records=int(n_after),
        )

    def _keep(self, part: slice) -> None:
        """Make `part` of the boundaries the window, and forget those that have outlived their reach."""
        window_4B = self._window_4B[:, part]
        alive_B = window_4B[_POSITION, -1] - window_4B[_POSITION] <= window_4B[_REACH]
        alive_B[0] = True  # the start of the window
        self._window_4B = window_4B[:, alive_B]
