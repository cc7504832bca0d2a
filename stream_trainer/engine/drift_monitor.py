"""Everything that watches for drift in one run, looked at once per batch, between scoring and learning.

Today: one detector per model on its errors, record by record. Detections are counted here, over all restarts, because
detectors forget theirs when they re-arm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stream_trainer.contracts import DriftDetector
from stream_trainer.drift import build_detector
from stream_trainer.errors import ConfigError
from stream_trainer.schema import Schema
from stream_trainer.types import Alarm, Batch, Prediction, State

__all__ = ["DriftMonitor", "DriftOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOptions:
    """What is watched, by what, and what follows. A detector is a name, or `{name: {option: value}}`."""

    error: str | Mapping[str, Mapping[str, Any]] = "adwin"  # on the errors of each model
    reaction: Literal["none", "alert"] = "alert"  # alert: log line and metric; none: the metric only

    def __post_init__(self) -> None:
        if not isinstance(self.error, str) and len(self.error) != 1:
            raise ConfigError(f"drift.error is {dict(self.error)}; expected a name or {{name: {{options}}}}.")
        self.build_error_detector()

    def build_error_detector(self) -> DriftDetector:
        name, options = (self.error, {}) if isinstance(self.error, str) else next(iter(self.error.items()))
        return build_detector(name, **options)


class DriftMonitor:
    """Turns what the trainer has into alarms, and remembers how many there were."""

    def __init__(self, options: DriftOptions, schema: Schema, models: Sequence[str]) -> None:
        self.options = options
        self.alarms = 0  # over all restarts
        self._records = 0
        self._errors = {name: options.build_error_detector() for name in models}

    @property
    def signals(self) -> tuple[str, ...]:
        """Names an alarm may carry."""
        return ("error",)

    def observe(
        self, batch: Batch, predictions: Mapping[str, Prediction], errors: Mapping[str, np.ndarray]
    ) -> tuple[Alarm, ...]:
        """The alarms of one batch. `errors`: per model, one value per record in arrival order."""
        found = [
            Alarm(
                signal="error",
                model=model,
                feature=None,
                record=self._records + detection.index + 1,
                detection=detection,
            )
            for model, detector in self._errors.items()
            for detection in detector.update(errors[model])
        ]
        self._records += len(batch)
        self.alarms += len(found)
        return tuple(found)

    def scores(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Signal -> feature -> (statistic, threshold), for signals that have a distance to show."""
        return {}

    def capture(self) -> State:
        own = State(values={"alarms": self.alarms, "records": self._records})
        detectors = State.join({model: detector.capture() for model, detector in self._errors.items()})
        return State.join({"own": own, "errors": detectors})

    def restore(self, state: State) -> None:
        own, detectors = state.part("own"), state.part("errors")
        self.alarms, self._records = own.values["alarms"], own.values["records"]
        for model, detector in self._errors.items():
            detector.restore(detectors.part(model))
