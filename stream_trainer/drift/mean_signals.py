"""Means that a detector watches: the errors of a model, and its doubt about its own answers.

Not here: distributions against a reference (signals.py), the detectors themselves, what follows an alarm.
Shape suffix: N = records.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from stream_trainer.contracts import DriftDetector
from stream_trainer.drift.restoring import part_of
from stream_trainer.drift.signals import Score
from stream_trainer.types import Alarm, Detection, State

__all__ = ["ConfidenceSignal", "ErrorSignal"]


class _MeanSignal:
    """A detector over one value per record."""

    signal: ClassVar[str]

    def __init__(self, model: str | None, detector: DriftDetector) -> None:
        self.model = model
        self.detector = detector
        self._pass_calm: Callable[[np.ndarray], bool] | None = getattr(detector, "pass_calm", None)
        self._record = 0

    def _watch(self, values_N: np.ndarray) -> list[Alarm]:
        """In arrival order; those that are not finite (a model gone wild) are left out."""
        if self._pass_calm is not None and self._pass_calm(values_N):
            self._record += len(values_N)
            return []
        found: Sequence[Detection]
        if math.isfinite(values_N.sum()):  # then each of them is
            found = self.detector.update(values_N)
        else:
            place = np.flatnonzero(np.isfinite(values_N))
            found = self.detector.update(values_N[place])
            found = [replace(detection, index=int(place[detection.index])) for detection in found]
        first, self._record = self._record, self._record + len(values_N)
        return [
            Alarm(signal=self.signal, model=self.model, feature=None, record=first + d.index + 1, detection=d)
            for d in found
        ]

    def scores(self) -> dict[str, Score]:
        """{"": ...}; empty for detectors that do not show their evidence (River's)."""
        evidence = getattr(self.detector, "evidence", None)
        return {} if evidence is None else {"": Score(*evidence())}

    def capture(self) -> State:
        return State.join({"detector": self.detector.capture(), "own": State(values={"record": self._record})})

    def restore(self, state: State) -> None:
        self.detector.restore(part_of(state, "detector"))
        self._record = part_of(state, "own").values["record"]


class ErrorSignal(_MeanSignal):
    """The errors of one model.

    >>> import numpy as np
    >>> from stream_trainer.drift.adwin import WeightedAdwin
    >>> signal = ErrorSignal("mlp", WeightedAdwin())
    >>> signal.update(np.zeros(1000)), [(a.signal, a.model, a.record) for a in signal.update(np.ones(100))]
    ([], [('error', 'mlp', 1024)])
    """

    signal = "error"

    def update(self, errors_N: np.ndarray) -> list[Alarm]:
        """Errors of one batch in arrival order."""
        return self._watch(errors_N)


class ConfidenceSignal(_MeanSignal):
    """How sure one model is of its classes; told as doubt, 1 - the largest probability, so that up is worse.

    Needs no labels. A mean and not a histogram against a frozen reference: a network is unsure when it is young, and
    what it was then is nothing to come back to. Of the detectors take `own_past`: a network that learns is never
    equally sure for long, and a test for any change of the mean tells that, too. It finds a world that was relabelled
    or turned round; a mean that moved or a class that became frequent is seen by the features and labels, hardly here
    (tests/benchmarks/drift_label_free_*.md).

    >>> from stream_trainer.drift.adwin import WeightedAdwin
    >>> signal = ConfidenceSignal("mlp", WeightedAdwin())
    >>> calm = signal.update(np.full(1000, 0.1))
    >>> [(a.signal, a.model, a.detection.direction.value) for a in signal.update(np.full(200, 0.5))]
    [('confidence', 'mlp', 'up')]
    """

    signal = "confidence"

    def update(self, doubt_N: np.ndarray) -> list[Alarm]:
        """Doubts of one batch in arrival order, see Verdict."""
        return self._watch(doubt_N)
