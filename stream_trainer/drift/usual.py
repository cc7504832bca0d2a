"""What is usual for a number that wanders by itself, and whether a look at it is beyond that.

The number is looked at on a grid of records. A look is told when it is above mean + margin of the past looks, which
fade; told once, and again only after it came back half-way. What is beyond enters the past as the threshold: a drift
must not make the next one invisible, and a level that never comes back becomes usual.
Not here: which number it is (norm_signal.py, own_past.py).
"""

import math
from dataclasses import dataclass

__all__ = ["Usual"]


@dataclass(slots=True)
class Usual:
    """Fading weight, mean and variance of the looks so far, and the last of them."""

    weight: float = 0.0
    mean: float = 0.0
    variance: float = 0.0
    looks: int = 0
    told: bool = False
    value: float = 0.0
    threshold: float = math.inf

    def learn(self, value: float, keep: float) -> None:
        """A look of the warm-up: nothing is judged. `keep`: weight of a look beside the next one."""
        self.value = value
        self._add(value, keep)

    def judge(self, value: float, keep: float, *, sigmas: float, margin_min: float) -> bool:
        """Whether this look must be told: it is further above the mean than `sigmas` spreads and `margin_min`."""
        usual = self.mean
        margin = max(sigmas * math.sqrt(self.variance), margin_min)
        self.value, self.threshold = value, usual + margin
        was_told, beyond = self.told, value > self.threshold
        self.told = beyond or (was_told and value > usual + margin / 2.0)
        self._add(min(value, self.threshold), keep)
        return beyond and not was_told

    def _add(self, value: float, keep: float) -> None:
        self.weight = keep * self.weight + 1.0
        gap, share = value - self.mean, 1.0 / self.weight
        self.mean += share * gap
        self.variance = (1.0 - share) * (self.variance + share * gap * gap)
        self.looks += 1
