"""How much a record still counts after others have come.

The clock is the record: a batch of n ages what is remembered as n batches of one do, to rounding.
"""

import math

import numpy as np

from stream_trainer.errors import ConfigError

__all__ = ["Memory"]


class Memory:
    """Weights 2^(-age / half_life_records), age counted in later records; infinite half-life: all weigh 1 for ever.

    >>> Memory(half_life_records=1).weights(3), Memory(half_life_records=1).kept(3)
    (array([0.25, 0.5 , 1.  ]), 0.125)
    >>> Memory().weights(2)
    array([1., 1.])
    """

    def __init__(self, half_life_records: float = math.inf) -> None:
        if not half_life_records > 0:
            raise ConfigError(f"half_life_records is {half_life_records}; it must be above 0.")
        self.half_life_records = half_life_records
        self._weights = np.ones(0)

    def weights(self, n: int) -> np.ndarray:
        """(n,) in arrival order, the last record weighs 1. A view of a shared table: read only."""
        if n > len(self._weights):
            ages = np.arange(2 * n - 1, -1, -1)
            self._weights = np.exp2(-ages / self.half_life_records)
            self._weights.flags.writeable = False
        return self._weights[len(self._weights) - n :]

    def kept(self, n: int) -> float:
        """What n new records leave of the weight of those before them."""
        return math.exp2(-n / self.half_life_records)
