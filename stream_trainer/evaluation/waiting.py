"""Records that are told right or wrong already, and wait to be summed together.

A sum costs its number of operations, hardly the records in it, so sums are made of blocks of BLOCK_RECORDS on a grid
counted from the first record. Two things follow: a batch of 16 pays for 16 records and not for a round of all sums,
and where the batches are cut changes no score, not by a bit.
N = records, K = classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stream_trainer.schema import Target, TargetKind
from stream_trainer.types import Prediction, State

__all__ = ["BLOCK_RECORDS", "Waiting"]

BLOCK_RECORDS = 2048  # eight usual batches, half of the price of four; two classes and a model: 48 kB in a snapshot


class Waiting:
    """Labels and predictions of fewer than BLOCK_RECORDS records, in arrival order.

    >>> waiting = Waiting(Target.binary("late"), ["mlp"])
    >>> waiting.take(np.array([1, 0]), {"mlp": np.array([[0.5, 0.5], [1.0, 0.0]])})
    2
    >>> waiting.records()[0].tolist(), waiting.full
    ([1, 0], False)
    """

    def __init__(self, target: Target, models: Sequence[str]) -> None:
        classes = target.kind is TargetKind.CLASSES
        width = (len(target.classes),) if classes else ()
        self._y = np.empty(BLOCK_RECORDS, np.int64 if classes else np.float64)
        self._predictions = {name: np.empty((BLOCK_RECORDS, *width)) for name in models}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def full(self) -> bool:
        return self._n == BLOCK_RECORDS

    def take(self, y_N: np.ndarray, predictions: Mapping[str, Prediction]) -> int:
        """Copy the first records, as many as there is room for; returns how many."""
        n = min(len(y_N), BLOCK_RECORDS - self._n)
        part = slice(self._n, self._n + n)
        self._y[part] = y_N[:n]
        for name, kept in self._predictions.items():
            kept[part] = predictions[name][:n]
        self._n += n
        return n

    def records(self) -> tuple[np.ndarray, dict[str, Prediction]]:
        """Labels and predictions of all that wait; views, true until the next `take`."""
        return self._y[: self._n], {name: kept[: self._n] for name, kept in self._predictions.items()}

    def clear(self) -> None:
        self._n = 0

    def capture(self) -> State:
        y_N, predictions = self.records()
        return State(arrays={"y": y_N.copy(), **{f"of/{name}": p.copy() for name, p in predictions.items()}})

    def restore(self, state: State) -> None:
        self.clear()
        arrays = {name: np.asarray(array) for name, array in state.arrays.items()}
        self.take(arrays["y"], {name: arrays[f"of/{name}"] for name in self._predictions})
