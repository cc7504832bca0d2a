"""Scores of one model over one memory; cumulative and fading are the same code with another memory.

N = records of the batch, K = classes, B = bins. Everything kept is a weighted sum or a merged moment, so any cut of the
same records gives the same scores, to rounding. Not here: the arithmetic per record that several memories share
(outcomes.py), and what a score is compared with (baselines.py).
Source for merged moments: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979.
"""

import math

import numpy as np

from stream_trainer.contracts import Stateful
from stream_trainer.evaluation.memory import Memory, WeightTable
from stream_trainer.evaluation.outcomes import BINS, ClassOutcomes, Guesses, NumberOutcomes
from stream_trainer.evaluation.parts import capture_parts, restore_parts
from stream_trainer.types import State

__all__ = ["ClassScores", "NumberScores", "Rates"]

# Labels whose standard deviation is this share of their mean are all the same: what deviates is rounding. Labels that
# differ are float32, and differ by more.
ROUNDING = 1e-13


class Rates:
    """accuracy and log_loss; NaN before the first record."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._weight = self._wrong = self._loss = 0.0

    def update(self, guesses: Guesses) -> None:
        kept, weights_N, weight = self._memory.aging(len(guesses.error_N))
        self._weight = kept * self._weight + weight
        self._wrong = kept * self._wrong + float(weights_N @ guesses.error_N)
        self._loss = kept * self._loss + float(weights_N @ guesses.loss_N)

    def values(self) -> dict[str, float]:
        if not self._weight:
            return {"accuracy": math.nan, "log_loss": math.nan}
        return {"accuracy": 1 - self._wrong / self._weight, "log_loss": self._loss / self._weight}

    def capture(self) -> State:
        return State(values={"weight": self._weight, "wrong": self._wrong, "loss": self._loss})

    def restore(self, state: State) -> None:
        self._weight, self._wrong, self._loss = (float(state.values[key]) for key in ("weight", "wrong", "loss"))


class ClassScores:
    """accuracy, log_loss and auc, and the confusion matrix.

    auc is the area under the ROC curve from binned log odds, ties counted half; for K > 2 the plain mean over the
    classes, each against all others. A class that was never seen, or the only one seen, has no curve; NaN if none has.
    """

    def __init__(self, classes: int, memory: Memory) -> None:
        self._curves = 1 if classes == 2 else classes
        self._rates = Rates(memory)
        self._confusion = WeightTable((classes, classes), memory)
        self._histogram = WeightTable((self._curves, 2, BINS), memory)  # curve, is it this class, bin of its log odds

    @property
    def confusion_KK(self) -> np.ndarray:
        """Weight of the records of each true class (row) by the class guessed (column); a copy."""
        return self._confusion.weights()

    def update(self, outcomes: ClassOutcomes) -> None:
        self._rates.update(outcomes)
        self._confusion.add(outcomes.confused)
        self._histogram.add(outcomes.binned, cells_per_record=self._curves)

    def values(self) -> dict[str, float]:
        return {**self._rates.values(), "auc": _auc(self._histogram.weights())}

    def _parts(self) -> dict[str, Stateful]:
        return {"rates": self._rates, "confusion": self._confusion, "histogram": self._histogram}

    def capture(self) -> State:
        return capture_parts(self._parts())

    def restore(self, state: State) -> None:
        restore_parts(self._parts(), state)


def _auc(histogram: np.ndarray) -> float:
    """Mean area over the curves that have weight on both sides; (curves, 2, B), row 0 the others, row 1 the class."""
    others, own = histogram[:, 0], histogram[:, 1]
    pairs = others.sum(axis=1) * own.sum(axis=1)
    below = others.cumsum(axis=1) - others / 2
    seen = pairs > 0
    return float(((own * below).sum(axis=1)[seen] / pairs[seen]).mean()) if seen.any() else math.nan


class NumberScores:
    """mae, rmse and r2 = 1 - squared error / squared deviation of the labels from their mean, in the same memory.

    NaN where undefined: no record yet, or for r2 labels that are all the same.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._weight = self._absolute = self._squared = 0.0
        self._mean = self._deviation = 0.0  # of the labels: no difference of large numbers is ever taken

    def update(self, outcomes: NumberOutcomes) -> None:
        if len(outcomes.error_N) == 0:
            return
        kept, weights_N, weight = self._memory.aging(len(outcomes.error_N))
        old_weight = kept * self._weight
        self._weight = weight + old_weight
        self._absolute = kept * self._absolute + float(weights_N @ outcomes.error_N)
        self._squared = kept * self._squared + float(weights_N @ outcomes.error_N**2)

        mean = float(weights_N @ outcomes.y_N) / weight
        within = float(weights_N @ (outcomes.y_N - mean) ** 2)
        step = mean - self._mean
        self._mean += step * weight / self._weight
        self._deviation = kept * self._deviation + within + step * step * weight * old_weight / self._weight

    def values(self) -> dict[str, float]:
        if not self._weight:
            return {"mae": math.nan, "rmse": math.nan, "r2": math.nan}
        all_same = self._deviation <= self._weight * (ROUNDING * self._mean) ** 2
        return {
            "mae": self._absolute / self._weight,
            "rmse": math.sqrt(self._squared / self._weight),
            "r2": math.nan if all_same else 1 - self._squared / self._deviation,
        }

    def capture(self) -> State:
        return State(
            values={
                "weight": self._weight,
                "absolute": self._absolute,
                "squared": self._squared,
                "mean": self._mean,
                "deviation": self._deviation,
            }
        )

    def restore(self, state: State) -> None:
        self._weight, self._absolute, self._squared, self._mean, self._deviation = (
            float(state.values[key]) for key in ("weight", "absolute", "squared", "mean", "deviation")
        )
