"""A model that knows how often it learned each record, and in which company: the oracle of crash tests.

A record lost is a count of zero, a record taught twice a count of two. Beside the counts it keeps one number that
depends on the order of the records and on every cut: two histories that differ anywhere end in different bits.
"""

from collections.abc import Iterable

import numpy as np

from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.types import Batch, LearnReport, Prediction, State

__all__ = ["SCHEMA", "CountingModel"]

SCHEMA = Schema(
    numbers=(NumberFeature(name="partition"), NumberFeature(name="id"), NumberFeature(name="x")),
    target=Target.binary("y"),
)
"""Of a record: its partition, its number there, one feature that tells about the target."""


class CountingModel:
    """Implements `contracts.Model` for records of `SCHEMA`.

    >>> model = CountingModel()
    >>> model.wrong([(0, 7)])
    ['partition 0, record 7: learned 0 times']
    """

    def __init__(self) -> None:
        self.learned: dict[tuple[int, int], int] = {}
        self.trace = 0.0

    def predict(self, batch: Batch) -> Prediction:
        sure_N = 1 / (1 + np.exp(-(batch.x_NF[:, 2].astype(np.float64) + self.trace)))
        return np.stack([1 - sure_N, sure_N], axis=1)

    def learn(self, batch: Batch) -> LearnReport:
        for partition, number in batch.x_NF[:, :2].astype(int).tolist():
            self.learned[partition, number] = self.learned.get((partition, number), 0) + 1
        weights_N = np.linspace(0.5, 1.0, len(batch))
        self.trace = 0.9 * self.trace + 0.1 * float(weights_N @ batch.x_NF[:, 2] / len(batch))
        return LearnReport(loss=abs(self.trace))

    def wrong(self, expected: Iterable[tuple[int, int]]) -> list[str]:
        """What differs from every expected (partition, record) learned once, and no other; empty: nothing."""
        once = dict.fromkeys(expected, 1)
        keys = sorted(once.keys() | self.learned.keys())
        return [
            f"partition {key[0]}, record {key[1]}: learned {self.learned.get(key, 0)} times"
            for key in keys
            if self.learned.get(key, 0) != once.get(key, 0)
        ]

    def capture(self) -> State:
        rows = [[*key, times] for key, times in sorted(self.learned.items())]
        arrays = {"learned": np.array(rows, np.int64).reshape(-1, 3), "trace": np.array([self.trace])}
        return State(arrays=arrays)

    def restore(self, state: State) -> None:
        self.learned = {(p, n): times for p, n, times in np.asarray(state.arrays["learned"]).tolist()}
        self.trace = float(state.arrays["trace"][0])
