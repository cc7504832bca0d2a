"""Histograms of the recent records: each weighs 0.5 ** (age / half_life_records), its age counted in later records.

Weights follow the order of arrival, so the cut into batches changes nothing but rounding. Records may wait to be
counted: a batch of 16 costs as many operations as one of 512, so small ones are counted together.
Not here: bins (bins.py), and what the counts are compared with (histograms.py).
Shape suffixes: N = records, F = columns, B = bins.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from stream_trainer.drift.bins import CategoryBins, NumberBins
from stream_trainer.types import State

__all__ = ["Columns", "FadingCounts", "Window", "columns_from_arrays", "columns_to_arrays", "joined"]

_WAITING_MAX = 512  # records that wait to be counted, if nobody looks before: half a snapshot at most

Columns: TypeAlias = tuple[np.ndarray, np.ndarray | None]  # (N, F), and where they are missing


class Window(NamedTuple):
    """A fading count."""

    count_FB: np.ndarray
    weight: float  # sum of the weights of its records, and of their squares
    weight_squares: float

    @property
    def size(self) -> float:
        """Records of equal weight that would know as much."""
        return self.weight**2 / self.weight_squares if self.weight_squares else 0.0


class FadingCounts:
    """The recent window of the columns that `bins` counts.

    >>> counts = FadingCounts(CategoryBins((2,)), half_life_records=1)
    >>> counts.add(np.array([[0], [1], [1]]), None)
    >>> counts.now().count_FB.tolist(), round(counts.now().size, 2)
    ([[0.25, 1.5]], 2.33)
    """

    def __init__(self, bins: NumberBins | CategoryBins, half_life_records: int) -> None:
        self._bins = bins
        self._keep = 0.5 ** (1.0 / half_life_records)
        self._weights = np.ones(1)  # of the newest records in arrival order; grown to the most that came at once
        self._n, self._sums = 1, (1.0, 1.0)  # of how many weights the sum and the sum of squares are known
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._counted = Window(np.zeros((self._bins.n_columns, self._bins.n_bins)), 0.0, 0.0)
        self._waiting: list[Columns] = []
        self._n_waiting = 0

    def add(self, columns_NF: np.ndarray, missing_NF: np.ndarray | None) -> None:
        """Records in arrival order; kept for a while, so not to be written to."""
        self._waiting.append((columns_NF, missing_NF))
        self._n_waiting += len(columns_NF)
        if self._n_waiting >= _WAITING_MAX:
            self.count()

    def count(self) -> None:
        """Nobody waits any more. Called on a grid of records, it costs what they are, not batches."""
        if self._waiting:
            self._counted = self.now()
            self._waiting, self._n_waiting = [], 0

    def now(self) -> Window:
        """The window with those who wait; asking changes nothing."""
        return self._later(*joined(self._waiting)) if self._waiting else self._counted

    def capture(self) -> State:
        counted = self._counted
        return State(
            arrays={"recent_FB": counted.count_FB.copy(), **columns_to_arrays("waiting", self._waiting)},
            values={"weight": counted.weight, "weight_squares": counted.weight_squares},
        )

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, float]) -> None:
        self._counted = Window(arrays["recent_FB"], values["weight"], values["weight_squares"])
        self._waiting = columns_from_arrays("waiting", arrays)
        self._n_waiting = sum(len(columns_NF) for columns_NF, _ in self._waiting)

    def _later(self, columns_NF: np.ndarray, missing_NF: np.ndarray | None) -> Window:
        """The counted window after these records."""
        n, window = len(columns_NF), self._counted
        weight_N, (total, squares) = self._weights_of(n)
        kept = self._keep**n
        return Window(
            self._bins.count(columns_NF, missing_NF, weight_N, window.count_FB, kept),
            window.weight * kept + total,
            window.weight_squares * kept**2 + squares,
        )

    def _weights_of(self, n: int) -> tuple[np.ndarray, tuple[float, float]]:
        """Of n records, with their sum and sum of squares; the last answer is kept, for the next batch has as many."""
        if n > len(self._weights):
            self._weights = self._keep ** np.arange(n - 1, -1, -1)
        weight_N = self._weights[len(self._weights) - n :]
        if n != self._n:
            self._n, self._sums = n, (float(weight_N.sum()), float(weight_N @ weight_N))
        return weight_N, self._sums


def joined(parts: list[Columns]) -> Columns:
    """One after the other; either all have a mask or none has."""
    if len(parts) == 1:
        return parts[0]
    masks = [missing_NF for _, missing_NF in parts if missing_NF is not None]
    return np.concatenate([columns_NF for columns_NF, _ in parts]), np.concatenate(masks) if masks else None


def columns_to_arrays(name: str, parts: list[Columns]) -> dict[str, np.ndarray]:
    """Copies for a State, under `name` and `name`_missing; none if there are no records."""
    if not parts:
        return {}
    columns_NF, missing_NF = joined(parts)
    arrays = {name: columns_NF.copy()}
    return arrays if missing_NF is None else {**arrays, f"{name}_missing": missing_NF.copy()}


def columns_from_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> list[Columns]:
    """What `columns_to_arrays` made."""
    return [(arrays[name], arrays.get(f"{name}_missing"))] if name in arrays else []
