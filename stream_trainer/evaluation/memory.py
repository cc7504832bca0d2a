"""How much a record still counts after others have come.

The clock is the record: a batch of n ages what is remembered as n batches of one do, to rounding.
"""

import math

import numpy as np

from stream_trainer.errors import ConfigError
from stream_trainer.types import State

__all__ = ["Memory", "WeightTable"]

UNIT_MAX = 1e100  # the square of it, as a product of two weights, is still a float64


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


class WeightTable:
    """How much weight fell into each cell of a large table.

    Nothing is decayed when records come: new ones are written in a growing unit instead, so a batch costs its own
    records, not the size of the table. Once the unit has grown out of bounds the whole table is rewritten.
    """

    def __init__(self, shape: tuple[int, ...], memory: Memory) -> None:
        self._memory = memory
        self._cells = np.zeros(shape)
        self._unit = 1.0  # what a weight of 1 is stored as

    def add(self, cells: np.ndarray, *, cells_per_record: int = 1) -> None:
        """`cells`: flat indices of records in arrival order, those of one record side by side."""
        n = len(cells) // cells_per_record
        kept = self._memory.kept(n)
        if kept * UNIT_MAX < 1:
            self._cells[...] = 0.0  # nothing of the old would be left
            kept = 1.0
        self._unit /= kept
        weights = self._memory.weights(n) * self._unit
        if cells_per_record > 1:
            weights = weights.repeat(cells_per_record)
        np.add.at(self._cells.reshape(-1), cells, weights)
        if self._unit > UNIT_MAX:
            self._cells = self.weights()
            # What has faded so far is dropped: as denormal numbers it would slow every later step, for ever.
            self._cells[self._cells < 1 / UNIT_MAX] = 0.0
            self._unit = 1.0

    def weights(self) -> np.ndarray:
        """The table as if every record had been decayed when the next one came; a copy."""
        return self._cells / self._unit

    def capture(self) -> State:
        return State(arrays={"cells": self._cells.copy()}, values={"unit": self._unit})

    def restore(self, state: State) -> None:
        self._cells[...] = state.arrays["cells"]
        self._unit = float(state.values["unit"])
