"""How much a record still counts after others have come.

The clock is the record: a batch of n ages what is remembered as n batches of one do, to rounding.
"""

import math
from typing import NamedTuple

import numpy as np

from stream_trainer.errors import ConfigError
from stream_trainer.evaluation.kernel import score_kernel
from stream_trainer.types import State

__all__ = ["Aging", "Memory", "WeightTable"]

UNIT_MAX = 1e100  # the square of it, as a product of two weights, is still a float64


class Aging(NamedTuple):
    """What a batch of n records does to what is remembered: the old is multiplied, the new is weighted and added."""

    kept: float  # what is left of the weight of all records before
    weights_N: np.ndarray  # of the new ones in arrival order, the last one 1; shared, so read only
    total: float  # of these weights


class Memory:
    """Weights 2^(-age / half_life_records), age counted in later records; infinite half-life: all weigh 1 for ever.

    >>> Memory(half_life_records=1).aging(3)
    Aging(kept=0.125, weights_N=array([0.25, 0.5 , 1.  ]), total=1.75)
    >>> Memory().aging(2)
    Aging(kept=1.0, weights_N=array([1., 1.]), total=2.0)
    """

    def __init__(self, half_life_records: float = math.inf) -> None:
        if not half_life_records > 0:
            raise ConfigError(f"half_life_records is {half_life_records}; it must be above 0.")
        self._half_life_records = half_life_records
        self._weights = np.ones(0)  # a table to slice; a batch needs the end of it
        self._n = -1
        self._aging = self.aging(0)

    def aging(self, n: int) -> Aging:
        """Of a batch of n. The last answer is kept: all scores of all models ask for the same batch."""
        if n != self._n:
            if n > len(self._weights):
                self._weights = np.exp2(-np.arange(2 * n - 1, -1, -1) / self._half_life_records)
                self._weights.flags.writeable = False
            weights_N = self._weights[len(self._weights) - n :]
            kept = math.exp2(-n / self._half_life_records)
            self._n, self._aging = n, Aging(kept, weights_N, float(weights_N.sum()))
        return self._aging


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
        kept, weights_N, _ = self._memory.aging(len(cells) // cells_per_record)
        if kept * UNIT_MAX < 1:
            self._cells[...] = 0.0  # nothing of the old would be left
            kept = 1.0
        self._unit /= kept
        compiled = score_kernel()
        if compiled is not None and len(cells):
            compiled.add_weights(self._cells.reshape(-1), cells, weights_N, self._unit)
        else:
            np.add.at(self._cells.reshape(-1), cells, (weights_N * self._unit).repeat(cells_per_record))
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
