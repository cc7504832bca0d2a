"""Adaptive windowing for batches: finds the record at which the mean of a stream changed, whatever the batch size.

The stream is summed in blocks of `block_records`, on a grid counted from its first record. The window is a list of
boundaries between blocks, and at the end of each block every boundary is tested as a cut, old part against new part
(adwin_window.py).

All of this depends on positions in the stream alone. Where the batches are cut changes nothing but the batch in which
a detection is told: same record, same numbers, bit for bit. Relation to ADWIN fed record by record: the same test
(equation 3.1 of the paper, as River has it) at the same clock of 32 records, on cuts at multiples of 32.

Refused: means of batches as values. The bound believes that each value has range 1, so a mean of 256 would count as
one record and a change of .10 to .30 stays unseen for 11,878 records instead of 128.
Shape suffix: N = values in the batch.
Source: Bifet and Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from stream_trainer.drift.adwin_options import AdwinOptions, delta_for
from stream_trainer.drift.adwin_window import AdwinWindow
from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.types import Detection, Direction, State

__all__ = ["AdwinOptions", "WeightedAdwin", "delta_for"]

_BLOCKS_AT_ONCE = 32  # rows of the test matrix: bounds its memory, and 1024 records is where the speed levels off
_SCALE_MEANS = 4.0  # automatic `value_max`, in means: 2 % of an exponential, 0.1 % of a half-normal lie above


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
    (159, 'up', 0.25, 0.5, 160)
    """

    name: ClassVar[str] = "weighted_adwin"
    options_type: ClassVar[type] = AdwinOptions

    def __init__(self, options: AdwinOptions | None = None) -> None:
        self.options = options or AdwinOptions()
        self._value_max = self.options.value_max  # None: to be taken from the next warm-up
        self._pending = np.zeros(self.options.block_records)  # its first values belong to a block that has begun, ...
        self._n_pending = 0  # ... or to the warm-up
        self._window = AdwinWindow(self.options)
        self._armed_at = 0  # no test before this block
        self.n_records = 0
        self.n_detections = {Direction.UP: 0, Direction.DOWN: 0}  # told or not

    @property
    def window_records(self) -> int:
        """Values between the start of the window and the last boundary."""
        return self._window.n_blocks * self.options.block_records

    def pass_calm(self, values_N: np.ndarray) -> bool:
        """Take the values of a batch, if it is proven that they are finite and that nothing is to be told of them.

        Returns: whether they were taken. If not, nothing has changed, and `update` will know.
        """
        if self._value_max is None:
            return False
        n_pending = self._window.pass_calm(self._pending, self._n_pending, values_N, self._value_max, self._armed_at)
        if n_pending is None:
            return False
        self._n_pending = n_pending
        self.n_records += len(values_N)
        return True

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        """Take the values of one batch, each finite and not negative; see contracts.DriftDetector."""
        if self.pass_calm(values_N):
            return ()
        self.n_records += len(values_N)
        n_before, values = self._n_pending, np.concatenate([self._pending[: self._n_pending], values_N])
        block, start, told = self.options.block_records, 0, list[Detection]()
        while (n_blocks := (len(values) - start) // block) and self._knows_range(values[start:]):
            rows_TN = values[start : start + min(n_blocks, _BLOCKS_AT_ONCE) * block].reshape(-1, block)
            n_taken, detection = self._take(rows_TN)
            start += n_taken * block
            if detection is not None and (detection.direction is Direction.UP or self.options.direction == "both"):
                told.append(replace(detection, index=start - 1 - n_before))
                self._armed_at = self._window.end + -(-self.options.refractory_records // block)
        self._remember(values[start:])
        return told

    def evidence(self) -> tuple[float, float]:
        """Difference of means at the most telling cut of the window as it is, and what it is compared with.

        In the unit of the values. (0, inf) while the window is too short to be tested.
        """
        strongest = None if self._value_max is None else self._window.strongest()
        if strongest is None or self._value_max is None:
            return 0.0, math.inf
        difference, bound = strongest
        return difference * self._value_max, bound * self._value_max

    def capture(self) -> State:
        return State(
            arrays={"pending": self._pending[: self._n_pending].copy(), "window": self._window.table_4B.copy()},
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
        self._remember(np.asarray(state.arrays["pending"], dtype=np.float64))
        self._window.table_4B = np.array(state.arrays["window"], dtype=np.float64)
        self._value_max = state.values["value_max"]
        self._armed_at = state.values["armed_at"]
        self.n_records = state.values["n_records"]
        self.n_detections = {Direction.UP: state.values["n_up"], Direction.DOWN: state.values["n_down"]}

    def _knows_range(self, values: np.ndarray) -> bool:
        if self._value_max is None and len(values) >= self.options.warmup_records:
            mean = float(values[: self.options.warmup_records].mean())
            # A warm-up of zeros: any value above 0 then counts as much as can be, which is what it means.
            self._value_max = max(_SCALE_MEANS * mean, float(np.finfo(np.float64).tiny))
        return self._value_max is not None

    def _remember(self, pending: np.ndarray) -> None:
        """These values wait for the next ones; in the warm-up they may be more than a block."""
        self._n_pending = len(pending)
        self._pending = np.zeros(max(self._n_pending, self.options.block_records))
        self._pending[: self._n_pending] = pending

    def _take(self, rows_TN: np.ndarray) -> tuple[int, Detection | None]:
        """Give blocks to the window, up to the first one that completes evidence of a change.

        Returns: blocks taken, and the detection, its index still to be set.
        """
        assert self._value_max is not None
        n_taken, detection = self._window.take(rows_TN, self._value_max, self._armed_at)
        if detection is not None:
            self.n_detections[detection.direction] += 1
            if self.options.value_max is None:
                self._window.forget()  # the old values were clipped to the old range and cannot be told in the new one
                self._value_max = None
        return n_taken, detection
