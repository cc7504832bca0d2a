"""The rows that every table needs to show what the others are worth: one that cannot err, one that knows nothing.

The one that never fires is `stream_trainer.drift.NoDetector`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stream_trainer.contracts import DriftDetector
from stream_trainer.types import Detection, Direction, State

__all__ = ["EveryK", "Oracle", "WorseOnly"]


@dataclass(slots=True)
class EveryK:
    """Fires every `k` records, whatever they are: finds all, means nothing."""

    k: int
    n_records: int = 0

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        first, self.n_records = self.n_records, self.n_records + len(values_N)
        return [
            _nothing(end - first - 1)
            for end in range(first // self.k * self.k, self.n_records + 1, self.k)
            if end > first
        ]

    def capture(self) -> State:
        return State(values={"n_records": self.n_records})

    def restore(self, state: State) -> None:
        self.n_records = state.values["n_records"]


@dataclass(slots=True)
class Oracle:
    """Knows the changes, and fires at their first record: what no detector can beat."""

    changes: tuple[int, ...]
    n_records: int = field(default=0)

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        first, self.n_records = self.n_records, self.n_records + len(values_N)
        return [_nothing(change - first) for change in self.changes if first <= change < self.n_records]

    def capture(self) -> State:
        return State(values={"n_records": self.n_records})

    def restore(self, state: State) -> None:
        self.n_records = state.values["n_records"]


@dataclass(slots=True)
class WorseOnly:
    """Another detector, heard only when it says that the values rose: recovery is no trouble."""

    detector: DriftDetector

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        return [found for found in self.detector.update(values_N) if found.direction is Direction.UP]

    def capture(self) -> State:
        return self.detector.capture()

    def restore(self, state: State) -> None:
        self.detector.restore(state)


def _nothing(index: int) -> Detection:
    """A detection without evidence."""
    return Detection(
        index=index, direction=Direction.UP, before=0.0, after=0.0, statistic=0.0, threshold=0.0, window_records=0
    )
