"""Scripted models and alarms that the tests of races and reactions share."""

import numpy as np

from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.types import Alarm, Batch, Detection, Direction, LearnReport, State

SCHEMA = Schema(numbers=(NumberFeature(name="x"),), target=Target.binary("y"))


def batch(n: int) -> Batch:
    """All of class 1: what a model says of it is its quality."""
    return Batch(
        x_NF=np.zeros((n, 1), np.float32),
        missing_NF=None,
        category_NC=np.zeros((n, 0), np.int64),
        y_N=np.ones(n, np.int64),
        timestamp_ms_N=np.full(n, -1, np.int64),
    )


def probabilities(p_N: np.ndarray) -> np.ndarray:
    return np.stack([1 - p_N, p_N], axis=1)


class Scripted:
    """Gives the true class the probability `quality`, always; remembers its script, its name and what it learned."""

    def __init__(self, name: str, quality: float) -> None:
        self.name, self.quality, self.learned = name, quality, 0

    def predict(self, batch):
        return probabilities(np.full(len(batch), self.quality))

    def learn(self, batch):
        self.learned += len(batch)
        return LearnReport()

    def capture(self):
        return State(values=dict(vars(self)))

    def restore(self, state):
        vars(self).update(state.values)


class ScriptedWithRate(Scripted):
    """With a raised rate it is as good as `raised_quality`."""

    def __init__(self, name: str, quality: float, raised_quality: float) -> None:
        super().__init__(name, quality)
        self.raised_quality, self.factor = raised_quality, 1.0

    def scale_rate(self, factor):
        self.factor = factor

    def predict(self, batch):
        quality = self.quality if self.factor == 1.0 else self.raised_quality
        return probabilities(np.full(len(batch), quality))


def alarm(direction: Direction = Direction.UP, signal: str = "error", model: str | None = "m") -> Alarm:
    found = Detection(index=0, direction=direction, before=0.1, after=0.3, statistic=9, threshold=1, window_records=64)
    return Alarm(signal=signal, model=model, feature=None, record=1, detection=found)
