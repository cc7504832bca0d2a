"""Shares of what the trainer has, turned into alarms: feature columns, predictions, labels.

Each signal is given one batch at a time, keeps the running count of records that its alarms carry, and shows where it
stands whether or not it fires: `scores`, by feature, "" for a signal of no feature. Alarm.signal is one of "feature",
"prediction", "label" here: bounded, so it can be a metric label. A column that stays changed is told once; it is told
again only after it came back half-way.
Not here: means (mean_signals.py), layers (norm_signal.py), what to do about an alarm (engine/reaction.py), and arrays
as features: blocks of pixels have no tenths.
Shape suffixes: N = records, F = numbers, C = categories, K = classes.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from stream_trainer.drift.bins import CategoryBins, NumberBins
from stream_trainer.drift.histogram_options import HistogramOptions
from stream_trainer.drift.histograms import Histograms
from stream_trainer.drift.restoring import part_of
from stream_trainer.schema import Schema, Target, TargetKind
from stream_trainer.types import Alarm, Batch, Detection, Direction, State

__all__ = ["FeatureRates", "FeatureSignal", "LabelSignal", "PredictionSignal", "Score"]

_CHECK_RECORDS = 64  # grid on which histograms are compared: a comparison costs about as much as counting them
_SHARE_CHECK_RECORDS = 512  # one column pays for the comparison alone; a model's shares move as the window does


class Score(NamedTuple):
    """Where a signal stands: it fires when the statistic is beyond the threshold."""

    statistic: float
    threshold: float


class FeatureRates(NamedTuple):
    """Shares of the recent window."""

    missing: float
    unseen: float  # out of the range of the reference, or a category that it never had


def _own(record: int) -> State:
    return State(values={"record": record})


class _Watch:
    """Histograms with names, and which of them have been told."""

    def __init__(self, names: Sequence[str], histograms: Histograms) -> None:
        self.names = tuple(names)
        self.histograms = histograms
        self._told_F = np.zeros(len(self.names), dtype=bool)

    def look(self, index: int) -> list[tuple[str, Detection]]:
        """Columns that are beyond their threshold and were not before."""
        if not self.names or not self.histograms.is_ready:
            return []
        self.histograms.count()
        if self.histograms.nothing_new(self._told_F):
            return []
        scores = self.histograms.scores()
        beyond_F = scores.value_F > scores.threshold_F
        if not beyond_F.any() and not self._told_F.any():
            return []
        fresh = np.flatnonzero(beyond_F & ~self._told_F)
        half_way_F = (scores.chance_F + scores.threshold_F) / 2.0
        self._told_F = beyond_F | (self._told_F & (scores.value_F > half_way_F))
        return [
            (
                self.names[column],
                Detection(
                    index=index,
                    direction=Direction.UP,
                    before=float(scores.chance_F[column]),
                    after=float(scores.value_F[column]),
                    statistic=float(scores.value_F[column]),
                    threshold=float(scores.threshold_F[column]),
                    window_records=scores.window_records,
                ),
            )
            for column in fresh
        ]

    def scores(self) -> dict[str, Score]:
        if not self.names:
            return {}
        scores = self.histograms.scores()
        pairs = zip(scores.value_F.tolist(), scores.threshold_F.tolist(), strict=True)
        return {name: Score(*pair) for name, pair in zip(self.names, pairs, strict=True)}

    def renew(self) -> None:
        self.histograms.renew()
        self._told_F[:] = False

    def capture(self) -> State:
        own = State(values={"told": self._told_F.tolist()})
        return State.join({"histograms": self.histograms.capture(), "own": own})

    def restore(self, state: State) -> None:
        self.histograms.restore(part_of(state, "histograms"))
        self._told_F = np.array(part_of(state, "own").values["told"], dtype=bool)


class FeatureSignal:
    """Distribution of each number and each category against a frozen reference.

    In an alarm `before` is the distance that chance alone would show, `after` and `statistic` the distance found.
    Columns are compared on a grid of 64 records, at the end of the batch that reaches it.
    """

    def __init__(self, schema: Schema, options: HistogramOptions | None = None) -> None:
        numbers = [feature.name for feature in schema.numbers]
        categories = [feature.name for feature in schema.categories]
        widths = tuple(feature.width for feature in schema.categories)
        self._numbers = _Watch(numbers, Histograms(NumberBins(len(numbers)), options))
        self._categories = _Watch(categories, Histograms(CategoryBins(widths), options))
        self._record = 0

    def update(self, batch: Batch) -> list[Alarm]:
        """Count the columns of one batch, and compare."""
        self._numbers.histograms.update(batch.x_NF, batch.missing_NF)
        self._categories.histograms.update(batch.category_NC)
        before, self._record = self._record, self._record + len(batch)
        if before // _CHECK_RECORDS == self._record // _CHECK_RECORDS:
            return []
        found = self._numbers.look(len(batch) - 1) + self._categories.look(len(batch) - 1)
        return [
            Alarm(signal="feature", model=None, feature=name, record=self._record, detection=detection)
            for name, detection in found
        ]

    def scores(self) -> dict[str, Score]:
        """Feature -> distance and threshold; 0 and infinite until the reference is complete."""
        return self._numbers.scores() | self._categories.scores()

    def rates(self) -> dict[str, FeatureRates]:
        """Feature -> missing and unseen shares of the recent window."""
        rates: dict[str, FeatureRates] = {}
        for watch in (self._numbers, self._categories):
            if watch.names:
                found = watch.histograms.rates()
                pairs = zip(found.missing_F.tolist(), found.unseen_F.tolist(), strict=True)
                rates |= {name: FeatureRates(*pair) for name, pair in zip(watch.names, pairs, strict=True)}
        return rates

    def renew(self) -> None:
        """Take a new reference from the next records: for after a confirmed drift."""
        self._numbers.renew()
        self._categories.renew()

    def capture(self) -> State:
        parts = {"numbers": self._numbers.capture(), "categories": self._categories.capture()}
        return State.join({**parts, "own": _own(self._record)})

    def restore(self, state: State) -> None:
        self._numbers.restore(part_of(state, "numbers"))
        self._categories.restore(part_of(state, "categories"))
        self._record = part_of(state, "own").values["record"]


class _ShareSignal:
    """Shares of the classes, or of the tenths of a number, against a frozen reference."""

    signal: ClassVar[str]

    def __init__(self, target: Target, model: str | None, options: HistogramOptions | None) -> None:
        options = options or HistogramOptions(distance="total_variation")  # shares: its unit is the record
        self._classes = target.kind is TargetKind.CLASSES
        bins = CategoryBins((target.outputs,)) if self._classes else NumberBins(1)
        self._watch = _Watch([""], Histograms(bins, options))
        self._model = model
        self._record = 0

    def _update(self, values_N: np.ndarray, n: int) -> list[Alarm]:
        self._watch.histograms.update(values_N[:, None])
        before, self._record = self._record, self._record + n
        if before // _SHARE_CHECK_RECORDS == self._record // _SHARE_CHECK_RECORDS:
            return []
        return [
            Alarm(signal=self.signal, model=self._model, feature=None, record=self._record, detection=detection)
            for _, detection in self._watch.look(n - 1)
        ]

    def scores(self) -> dict[str, Score]:
        """{"": ...}: one distance for the whole signal."""
        return self._watch.scores()

    def renew(self) -> None:
        """Take a new reference from the next records: for after a confirmed drift."""
        self._watch.renew()

    def capture(self) -> State:
        return State.join({"watch": self._watch.capture(), "own": _own(self._record)})

    def restore(self, state: State) -> None:
        self._watch.restore(part_of(state, "watch"))
        self._record = part_of(state, "own").values["record"]


class PredictionSignal(_ShareSignal):
    """What one model says: share of each predicted class, or distribution of the predicted number.

    Sees a change of the inputs through the model's eyes, and needs no labels.
    """

    signal = "prediction"

    def __init__(self, model: str | None, target: Target, options: HistogramOptions | None = None) -> None:
        super().__init__(target, model, options)

    def update(self, said_N: np.ndarray) -> list[Alarm]:
        """Classes guessed or numbers predicted, of one batch; numbers that are not finite are left out."""
        n = len(said_N)
        if not self._classes:
            said_N = said_N[np.isfinite(said_N)].astype(np.float32)
        return self._update(said_N, n)


class LabelSignal(_ShareSignal):
    """What is true: share of each class, or distribution of the number to be predicted."""

    signal = "label"

    def __init__(self, target: Target, options: HistogramOptions | None = None) -> None:
        super().__init__(target, None, options)

    def update(self, y_N: np.ndarray) -> list[Alarm]:
        """Labels of one batch: class indices or numbers, as in `Batch.y_N`."""
        return self._update(y_N, len(y_N))
