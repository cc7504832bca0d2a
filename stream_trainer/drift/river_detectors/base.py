"""What River's detectors have in common behind our contract: the loop over records, the counting, the restore.

River starts again from nothing after each detection, its counters included, so what is counted here is counted by us.
Shape suffix: N = records in the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np

from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.types import Detection, Direction, State

__all__ = ["RiverDetector", "Since"]


@dataclass(slots=True)
class Since:
    """What River's detector was fed since it last started from nothing.

    The marks are the count and the sum as they stood where, by the detector's own estimate, a rise or a fall began.
    """

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    n_rise: float = 0.0
    total_rise: float = 0.0
    n_fall: float = 0.0
    total_fall: float = 0.0

    def around(self, direction: Direction) -> tuple[float, float]:
        """Means before and after the mark; where none was set, both sides share the one mean there is."""
        up = direction is Direction.UP
        n_mark, total_mark = (self.n_rise, self.total_rise) if up else (self.n_fall, self.total_fall)
        if not 0 < n_mark < self.n:
            return self.total / self.n, self.total / self.n
        return total_mark / n_mark, (self.total - total_mark) / (self.n - n_mark)


class RiverDetector:
    """The loop over records and the counting, common to all."""

    name: ClassVar[str]
    options_type: ClassVar[type]

    def __init__(self, options: Any = None) -> None:
        self.options = self.options_type() if options is None else options
        self.n_records = 0
        self.n_detections = {Direction.UP: 0, Direction.DOWN: 0}
        self._since = Since()
        self._river: Any = self._build()

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        """Feed the values one by one; see contracts.DriftDetector. Values are finite: the caller sees to that."""
        detections = []
        for index, value in enumerate(self._accepted(np.asarray(values_N, dtype=np.float64)).tolist()):
            since = self._since
            since.n += 1
            since.total += value
            since.squares += value * value
            self._river.update(value)
            if self._river.drift_detected:
                detection = self._claim(index, since)
                self.n_detections[detection.direction] += 1
                detections.append(detection)
                self._since = Since()
            else:
                self._mark(since)
        self.n_records += len(values_N)
        return detections

    def capture(self) -> State:
        since = np.array(astuple(self._since))
        memory = {"since": since, "drifted": np.array([self._river.drift_detected]), **self._memory()}
        counts = {
            "n_records": self.n_records,
            "n_up": self.n_detections[Direction.UP],
            "n_down": self.n_detections[Direction.DOWN],
        }
        return State(arrays=memory, values={**self._identity(), **counts})

    def restore(self, state: State) -> None:
        refuse_stranger(state, self._identity())
        self.n_records = state.values["n_records"]
        self.n_detections = {Direction.UP: state.values["n_up"], Direction.DOWN: state.values["n_down"]}
        arrays = {name: np.asarray(array) for name, array in state.arrays.items()}
        self._since = Since(*arrays["since"].tolist())
        self._river = self._build()
        self._river._drift_detected = bool(arrays["drifted"][0])
        self._recall(arrays)

    def _identity(self) -> dict[str, Any]:
        # Its private fields are what we store; another minor version may give them another meaning.
        return {**identity(self.name, self.options), "river": version("river")}

    def _accepted(self, values_N: np.ndarray) -> np.ndarray:
        return values_N

    def _mark(self, since: Since) -> None:
        """Note in `since` that, for all the detector knows, no change has begun by now."""

    def _build(self) -> Any:
        raise NotImplementedError

    def _claim(self, index: int, since: Since) -> Detection:
        raise NotImplementedError

    def _memory(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def _recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        raise NotImplementedError
