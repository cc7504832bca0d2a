"""The window of weighted ADWIN: boundaries between blocks, and the test of every one of them as a cut.

Each boundary has the sum and the sum of squares of the values up to there, so the numbers of any stretch (n, sum, M2)
are the difference of two boundaries, and merging two buckets is forgetting the boundary between them. A boundary is
kept while its age in blocks is at most `resolution` times the largest power of two that divides its position:
`resolution / 2` boundaries for each doubling of the age, so memory grows with the logarithm of the window.

The compiled kernel adds the blocks of a batch if it proves that no cut is significant; which cut is, only numpy says.
Not here: which detections are told, and where the range of the values comes from (adwin.py).
Shape suffixes: N = values of a block, T = block ends under test, B = boundaries; 4 = the rows of the window.
Source: Bifet and Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007, equation 3.1.
"""

import numpy as np

from stream_trainer.drift.adwin_options import AdwinOptions
from stream_trainer.drift.kernel import drift_kernel
from stream_trainer.types import Detection, Direction

__all__ = ["AdwinWindow"]

_POSITION, _SUM, _SQUARES, _REACH = range(4)
_SPARE = 64  # columns: enough for the first million records; after them it is numpy's turn once


class AdwinWindow:
    """What is remembered of the values, in units of their range.

    `table_4B` has one column a boundary, the first is the start of the window. Rows: position in blocks since the
    stream began, sum and sum of squares of the values up to there, age in blocks up to which it is kept. It lies in
    wider rows, so that the kernel can add to it.
    """

    def __init__(self, options: AdwinOptions) -> None:
        self._options, self._block = options, options.block_records
        self._log_scale = 2.0 / options.delta_per_test
        self._warmup_blocks = -(-options.warmup_records // options.block_records)
        effect_min = options.min_effect
        self._constants = (self._block, options.resolution, self._log_scale, effect_min, self._warmup_blocks)
        self.table_4B = np.zeros((4, 1))

    @property
    def table_4B(self) -> np.ndarray:
        return self._rows[:, : self._n_boundaries]

    @table_4B.setter
    def table_4B(self, table_4B: np.ndarray) -> None:
        self._n_boundaries = table_4B.shape[1]
        self._rows = np.zeros((4, self._n_boundaries + _SPARE))
        self._rows[:, : self._n_boundaries] = table_4B

    @property
    def end(self) -> int:
        """Blocks since the stream began."""
        return int(self.table_4B[_POSITION, -1])

    @property
    def n_blocks(self) -> int:
        """Blocks from the start of the window to its end."""
        return self.end - int(self.table_4B[_POSITION, 0])

    def pass_calm(
        self, pending: np.ndarray, n_pending: int, values_N: np.ndarray, value_max: float, armed_at: int
    ) -> int | None:
        """Take the values of a batch if it is proven that they are finite and complete no cut.

        Args:    pending: (block_records,) float64, the first `n_pending` came before `values_N`; written to.
        Returns: how many are pending afterwards; None: nothing is proven, nothing was taken. So without the kernel.
        """
        compiled = drift_kernel()
        if compiled is None:
            return None
        values_N = np.ascontiguousarray(values_N, dtype=np.float64)
        passed: tuple[int, int] | None = compiled.pass_calm(
            self._rows, self._n_boundaries, pending, n_pending, values_N, value_max, armed_at, *self._constants
        )
        if passed is None:
            return None
        self._n_boundaries, n_pending = passed
        return n_pending

    def take(self, values_TN: np.ndarray, value_max: float, armed_at: int) -> tuple[int, Detection | None]:
        """Add blocks (rows) up to the first one that completes evidence of a change, and cut the old part off.

        Args:    armed_at: no test before this block.
        Returns: blocks taken, and the detection, its index still to be set.
        """
        values_TN = np.minimum(values_TN, value_max) / value_max
        n_old = self.table_4B.shape[1]
        self.table_4B = np.concatenate([self.table_4B, self._boundaries(values_TN)], axis=1)
        cut = self._first_cut(n_old, self._tested_from(armed_at))
        if cut is None:
            self._keep(slice(None))
            return len(values_TN), None
        end, boundary = cut
        detection = self._describe(end, boundary, value_max)
        self._keep(slice(boundary, end + 1))
        return end + 1 - n_old, detection

    def forget(self) -> None:
        """Begin at the last boundary."""
        self._keep(slice(-1, None))

    def strongest(self) -> tuple[float, float] | None:
        """Difference of means at the most telling cut, and what it is compared with; None: too short to be tested."""
        if self.n_blocks < self._warmup_blocks:
            return None
        excess_B, bound_B, harmonic_B = (
            table_TB[0, 1:-1] for table_TB in self._compare(*self._moments(self.table_4B[:, -1:]))
        )
        best = int(np.argmax(np.abs(excess_B) / bound_B))
        return float(excess_B[best] / harmonic_B[best]), float(bound_B[best] / harmonic_B[best])

    # ------------------------------------------------------------ blocks to boundaries

    def _tested_from(self, armed_at: int) -> float:
        """Position of the first end that is tested."""
        return max(float(self.table_4B[_POSITION, 0]) + self._warmup_blocks, float(armed_at))

    def _boundaries(self, values_TN: np.ndarray) -> np.ndarray:
        """The columns of the window that these blocks add."""
        last_4 = self.table_4B[:, -1]
        position = int(last_4[_POSITION]) + 1 + np.arange(len(values_TN))
        new_4B = np.empty((4, len(values_TN)))
        new_4B[_POSITION] = position
        # Added one by one, where `sum` would choose an order of its own: the rounding is the kernel's, and the same
        # for every cut of the stream.
        new_4B[_SUM] = np.add.accumulate(values_TN, axis=1)[:, -1]
        new_4B[_SQUARES] = np.add.accumulate(values_TN * values_TN, axis=1)[:, -1]
        new_4B[_REACH] = self._options.resolution * (position & -position)
        totals_2B = new_4B[_SUM : _SQUARES + 1]
        totals_2B[:, 0] += last_4[_SUM : _SQUARES + 1]
        np.add.accumulate(totals_2B, axis=1, out=totals_2B)
        return new_4B

    def _keep(self, part: slice) -> None:
        """Make `part` of the boundaries the window, and forget those that have outlived their reach."""
        table_4B = self.table_4B[:, part]
        alive_B = table_4B[_POSITION, -1] - table_4B[_POSITION] <= table_4B[_REACH]
        alive_B[0] = True  # the start of the window
        self.table_4B = table_4B[:, alive_B]

    # ------------------------------------------------------------ the test

    def _first_cut(self, n_old: int, tested_from: float) -> tuple[int, int] | None:
        """First new boundary at which some cut is beyond its bound, and the most telling cut there; None: none is."""
        position_B, reach_B = self.table_4B[_POSITION], self.table_4B[_REACH]
        first = max(n_old, len(position_B) - 1 - int(position_B[-1] - tested_from))
        if first >= len(position_B):
            return None
        excess_TB, bound_TB, _ = self._compare(*self._moments(self.table_4B[:, first:]))
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
        start_4 = self.table_4B[:, 0]
        n_T = (ends_4T[_POSITION] - start_4[_POSITION]) * float(self._block)
        mean_T = (ends_4T[_SUM] - start_4[_SUM]) / n_T
        variance_T = (ends_4T[_SQUARES] - start_4[_SQUARES]) / n_T - mean_T * mean_T
        return n_T, mean_T, np.maximum(variance_T, 0.0, out=variance_T)

    def _compare(
        self, n_T: np.ndarray, mean_T: np.ndarray, variance_T: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What each cut B says of each window T: the excess of the new part, its bound, and the harmonic count h.

        The excess is the sum of the new part less its share of the window's mean: h times the difference of means, with
        1/h = 1/n_old + 1/n_new. Its bound is h times that of the paper, sqrt(2 v l / h) + 2/3 l / h, where v is the
        variance of the window and l = ln(2 ln(n) / delta), and at least h times `min_effect`. Where B is not inside
        the window the numbers mean nothing; the caller masks them.
        """
        n_B = (self.table_4B[_POSITION] - self.table_4B[_POSITION, 0]) * float(self._block)
        sum_B = self.table_4B[_SUM] - self.table_4B[_SUM, 0]
        log_T = np.log(self._log_scale * np.log(n_T))
        excess_TB = np.multiply.outer(mean_T, n_B) - sum_B
        harmonic_TB = n_B - np.multiply.outer(1.0 / n_T, n_B * n_B)
        bound_TB = np.sqrt(np.abs((2.0 * variance_T * log_T)[:, None] * harmonic_TB))
        bound_TB += (2.0 / 3.0 * log_T)[:, None]
        if self._options.min_effect:
            np.maximum(bound_TB, self._options.min_effect * harmonic_TB, out=bound_TB)
        return excess_TB, bound_TB, harmonic_TB

    def _describe(self, end: int, boundary: int, value_max: float) -> Detection:
        _, bound_TB, harmonic_TB = self._compare(*self._moments(self.table_4B[:, end : end + 1]))
        position, total = self.table_4B[: _SUM + 1, [0, boundary, end]]
        n_before, n_after = (np.diff(position) * self._block).tolist()
        sum_before, sum_after = np.diff(total).tolist()
        before, after = sum_before / n_before * value_max, sum_after / n_after * value_max
        return Detection(
            index=0,
            direction=Direction.UP if after > before else Direction.DOWN,
            before=before,
            after=after,
            statistic=abs(after - before),
            threshold=float(bound_TB[0, boundary] / harmonic_TB[0, boundary]) * value_max,
            window_records=int(n_after),
        )
