"""Test, then train: one batch through every model.

All models predict with the state before the batch, all scores are taken, drift is looked for and acted upon, and only
then does anyone learn: no score has ever seen its own label. Order inside a batch is arrival order. No I/O; the
stopwatch is handed in.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from stream_trainer.contracts import Model, Stateful
from stream_trainer.engine.drift_monitor import DriftMonitor
from stream_trainer.engine.reaction import Reaction
from stream_trainer.evaluation import Prequential
from stream_trainer.types import Alarm, Batch, ModelReport, Prediction, ReactionEvent, ReactionKind

__all__ = ["Trainer"]

T = TypeVar("T")


class Trainer:
    """The models, their scores and the drift signals of one run.

    Args:
        models: by the name under which they are scored and exported.
        prequential: scores of the same models.
        drift: looks at errors, inputs and predictions of every batch.
        stopwatch_s: monotonic seconds; only for the durations in the report.
        reaction: acts on alarms, of these same models; None: alarms are told and nothing else.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        prequential: Prequential,
        drift: DriftMonitor,
        stopwatch_s: Callable[[], float],
        reaction: Reaction | None = None,
    ) -> None:
        self.models, self.prequential, self.drift = dict(models), prequential, drift
        self.reaction = reaction
        self._stopwatch_s = stopwatch_s

    def step(self, batch: Batch) -> tuple[dict[str, ModelReport], tuple[Alarm, ...], tuple[ReactionEvent, ...]]:
        """Predict, score, look for drift, react, learn, look at the layers. The batch holds at least one record."""
        predictions: dict[str, Prediction] = {}
        predict_s: dict[str, float] = {}
        for name, model in self.models.items():
            ask = partial(self.reaction.predict, name) if self.reaction else model.predict
            predictions[name], predict_s[name] = self._timed(ask, batch)
        verdicts = self.prequential.update(batch.y_N, predictions)
        alarms = self.drift.observe(batch, verdicts)
        events = self.reaction.react(batch, alarms) if self.reaction else ()
        for event in events:
            if event.kind is ReactionKind.CONFIRM:
                self.drift.renew(event.model)
        reports = {}
        for name, model in self.models.items():
            learned, learn_s = self._timed(model.learn, batch)
            reports[name] = ModelReport(
                learned=learned, error=float(verdicts[name].error_N.mean()), predict_s=predict_s[name], learn_s=learn_s
            )
        return reports, alarms + self.drift.look_inside(batch, self.models), events

    def parts(self) -> dict[str, Stateful]:
        """Everything here that remembers, by the name it has in a snapshot."""
        models = {f"models/{name}": model for name, model in self.models.items()}
        reaction = {"reaction": self.reaction} if self.reaction else {}
        return {**models, "scores": self.prequential, "drift": self.drift, **reaction}

    def _timed(self, call: Callable[[Batch], T], batch: Batch) -> tuple[T, float]:
        started_s = self._stopwatch_s()
        return call(batch), self._stopwatch_s() - started_s
