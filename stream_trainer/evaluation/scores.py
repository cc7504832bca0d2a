"""Scores of one model over one memory, fed with columns of a batch; cumulative and fading are the same code.

N = records of the batch, K = classes, B = bins. Everything kept is a weighted sum or a merged moment, so any cut of the
same records gives the same scores, to rounding. Not here: the arithmetic per record that several memories share
(outcomes.py), and what a score is compared with (baselines.py).
Source for merged moments: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979.
"""

import math

import numpy as np

from stream_trainer.evaluation.memory import Memory
from stream_trainer.evaluation.outcomes import BINS, ClassOutcomes, Guesses, NumberOutcomes
from stream_trainer.types import State

__all__ = ["ClassScores", "NumberScores", "Rates"]

# Weights that have faded this far are dropped: as denormal numbers they would slow every later step, for ever.
FORGOTTEN = 1e-200


class Rates:
    """accuracy and log_loss; NaN before the first record."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._sums = np.zeros(3)  # weight, wrong, loss

    def update(self, guesses: Guesses) -> None:
        n = len(guesses.wrong_N)
        weights_N = self._memory.weights(n)
        self._sums *= self._memory.kept(n)
        self._sums += (weights_N.sum(), weights_N @ guesses.wrong_N, weights_N @ guesses.loss_N)

    def values(self) -> dict[str, float]:
        weight, wrong, loss = self._sums.tolist()
        if not weight:
            return {"accuracy": math.nan, "log_loss": math.nan}
        return {"accuracy": 1 - wrong / weight, "log_loss": loss / weight}

    def capture(self) -> State:
        return State(arrays={"sums": self._sums.copy()})

    def restore(self, state: State) -> None:
        self._sums[...] = state.arrays["sums"]


class ClassScores:
    """accuracy, log_loss and auc, and the confusion matrix behind them.

    auc is the area under the ROC curve from binned log odds, ties counted half; for K > 2 the plain mean over the
    classes, each against all others. A class that was never seen, or the only one seen, has no curve; NaN if none has.
    """

    def __init__(self, classes: int, memory: Memory) -> None:
        self._memory = memory
        self._rates = Rates(memory)
        self._confusion = np.zeros((classes, classes))
        curves = 1 if classes == 2 else classes
        self._histogram = np.zeros((curves, 2, BINS))  # curve, is it this class, bin of its log odds

    @property
    def confusion_KK(self) -> np.ndarray:
        """Weight of the records of each true class (row) by the class guessed (column); a copy."""
        return self._confusion.copy()

    def update(self, outcomes: ClassOutcomes) -> None:
        self._rates.update(outcomes)
        n = len(outcomes.wrong_N)
        weights_N, kept = self._memory.weights(n), self._memory.kept(n)
        for table, cells_NC in ((self._confusion, outcomes.confused_N1), (self._histogram, outcomes.binned_NC)):
            if kept < 1:
                table *= kept
                table[table < FORGOTTEN] = 0.0
            np.add.at(table.reshape(-1), cells_NC, weights_N[:, None])

    def values(self) -> dict[str, float]:
        return {**self._rates.values(), "auc": _auc(self._histogram)}

    def capture(self) -> State:
        tables = {"confusion": self._confusion.copy(), "histogram": self._histogram.copy()}
        return State(arrays={**self._rates.capture().arrays, **tables})

    def restore(self, state: State) -> None:
        self._rates.restore(state)
        self._confusion[...] = state.arrays["confusion"]
        self._histogram[...] = state.arrays["histogram"]


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
        self._sums = np.zeros(3)  # weight, absolute error, squared error
        self._label = np.zeros(2)  # mean, and summed squared deviation from it: no difference of large numbers

    def update(self, outcomes: NumberOutcomes) -> None:
        n = len(outcomes.error_N)
        if n == 0:
            return
        weights_N, kept = self._memory.weights(n), self._memory.kept(n)
        error_N, y_N = outcomes.error_N, outcomes.y_N

        weight, old_weight = float(weights_N.sum()), kept * self._sums[0]
        mean = float(weights_N @ y_N) / weight
        deviation = float(weights_N @ (y_N - mean) ** 2)
        step = mean - self._label[0]
        total = weight + old_weight
        self._label[0] += step * weight / total
        self._label[1] = kept * self._label[1] + deviation + step * step * weight * old_weight / total

        self._sums *= kept
        self._sums += (weight, weights_N @ error_N, weights_N @ (error_N * error_N))

    def values(self) -> dict[str, float]:
        weight, absolute, squared = self._sums.tolist()
        if not weight:
            return {"mae": math.nan, "rmse": math.nan, "r2": math.nan}
        deviation = float(self._label[1])
        return {
            "mae": absolute / weight,
            "rmse": math.sqrt(squared / weight),
            "r2": 1 - squared / deviation if deviation > 0 else math.nan,
        }

    def capture(self) -> State:
        return State(arrays={"sums": self._sums.copy(), "label": self._label.copy()})

    def restore(self, state: State) -> None:
        self._sums[...] = state.arrays["sums"]
        self._label[...] = state.arrays["label"]
