"""How far may the sum of new values stray before any cut of the window could become significant?

Testing every cut costs a round of array operations; that nothing has happened can be known for less. Let a window of n
values have mean m and variance v, and let k <= n / 4 values come. With C the running sum of (value - m) over them, and
R the range of C, 0 included:
  - a cut at an old boundary, n_B values after the start: its excess moves by C n_B / (n + k), so by C at most;
  - a cut between new values: its excess is a difference of two C, and a share of C below 1/5: at most 1.2 R.
Its bound, sqrt(2 v l h) + 2/3 l, does not fall while h and l grow with the window, and v not below 4/5 of itself: the
sum of squares about the mean only grows. So limits to C and to R are proof, and what is proven needs no test. Nothing
is proven of larger k, or of windows too short to be tested.
Shape suffixes: B = boundaries of the window.
"""

import math
from collections.abc import Iterable

import numpy as np

__all__ = ["Calm"]

_GROWTH_MAX = 1 / 4
_VARIANCE_KEPT = 1 / (1 + _GROWTH_MAX)
_SHARE_MAX = _GROWTH_MAX / (1 + _GROWTH_MAX)
_ROUNDING = 1e-6  # the test itself may round otherwise


class Calm:
    """What is known of the values since the window was last looked at.

    Args:
        n_B, sum_B: values and their sum from the start of the window to each boundary; the first is 0, the last all.
        variance: of all values of the window.
        log: l of the bound, of this window.
        min_effect: cuts whose means differ by less are none.
        block: values from one boundary to the next.
    """

    def __init__(
        self, n_B: np.ndarray, sum_B: np.ndarray, *, variance: float, log: float, min_effect: float, block: int
    ) -> None:
        n = float(n_B[-1])
        self._mean, self._block = float(sum_B[-1]) / n, block
        self._blocks_left = int(n * _GROWTH_MAX) // block
        self._c = self._low = self._high = 0.0
        spread = 2.0 * _VARIANCE_KEPT * variance * log
        new = math.sqrt(spread * n * block / (n + block)) + 2.0 / 3.0 * log
        self._range_max = new * (1.0 - _ROUNDING) / (1.0 + _SHARE_MAX)
        harmonic_B = n_B * (1.0 - n_B / n)
        bound_B = np.sqrt(spread * np.abs(harmonic_B)) + 2.0 / 3.0 * log
        if min_effect:
            bound_B = np.maximum(bound_B, min_effect * harmonic_B)
        bound_B *= 1.0 - _ROUNDING
        excess_B = self._mean * n_B - sum_B
        self._c_max = float((bound_B - excess_B).min())
        self._c_min = -float((bound_B + excess_B).min())

    def holds(self, block_sums: Iterable[float]) -> bool:
        """Is it proven that no cut is significant at the end of any of these blocks, which follow those before?

        Once it is not, the rest is unknown: look at the window, and begin anew.
        """
        expected, c, low, high = self._mean * self._block, self._c, self._low, self._high
        for block_sum in block_sums:
            c += block_sum - expected
            low, high = min(low, c), max(high, c)
            self._blocks_left -= 1
        self._c, self._low, self._high = c, low, high
        within = high <= self._c_max and low >= self._c_min and high - low <= self._range_max
        return within and self._blocks_left >= 0
