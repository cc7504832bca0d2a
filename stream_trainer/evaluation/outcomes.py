"""What came of each prediction of a batch: computed once, then summed by every memory.

N = records, K = classes, B = bins.
"""

from dataclasses import dataclass

import numpy as np

from stream_trainer.evaluation.kernel import score_kernel
from stream_trainer.types import Verdict

__all__ = [
    "BINS",
    "PROBABILITY_MIN",
    "ClassOutcomes",
    "Guesses",
    "NumberOutcomes",
    "class_verdict",
    "log_loss",
    "number_error",
]

BINS = 1024
PROBABILITY_MIN = 1e-15  # log_loss never sees less: one sure mistake costs 34.5, not infinity
ODDS_MIN = 1e-300  # keeps the quotient and its logarithm finite; far beyond any odds that a model means

# Log odds t are binned by t / (|t| + 4): fine where most predictions are (a step of .002 in probability at 1/2), and
# yet no end of the scale: odds of 1e8 and 1e9 to one are still 8 bins apart. A plain grid on probabilities would put
# all rare events of a fraud model into its first bin; a plain grid on log odds would have to be cut off somewhere.
ODDS_KNEE = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses:
    """Per record: was the guessed class wrong, and what did the truth cost."""

    error_N: np.ndarray  # float64, 1 wrong, 0 right
    loss_N: np.ndarray  # -log of the probability given to the true class


def log_loss(p_true_N: np.ndarray) -> np.ndarray:
    """Of the probabilities given to what came true; clipped, see PROBABILITY_MIN."""
    return -np.log(np.minimum(np.maximum(p_true_N, PROBABILITY_MIN), 1 - PROBABILITY_MIN))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOutcomes(Guesses):
    """And which cells of the tables each record is in. Of equally likely classes the first one counts as guessed."""

    confused: np.ndarray  # (N,) flat index into the confusion matrix (K true, K guessed)
    binned: np.ndarray  # (N * curves,) flat index into (curves, 2, B); one curve if K = 2, else K

    @classmethod
    def of(cls, y_N: np.ndarray, p_NK: np.ndarray) -> "ClassOutcomes":
        n, classes = p_NK.shape
        compiled = score_kernel()
        if compiled is not None and n:
            y_N, p_NK = np.ascontiguousarray(y_N, dtype=np.int64), np.ascontiguousarray(p_NK, dtype=np.float64)
            error_N, p_true_N, odds = np.empty(n), np.empty(n), np.empty(n if classes == 2 else n * classes)
            confused, binned = np.empty(n, np.int64), np.empty(len(odds), np.int64)
            compiled.outcomes(p_NK, y_N, error_N, p_true_N, confused, odds)
            compiled.bin_odds(np.log(odds, out=odds), y_N, binned)
            return cls(error_N=error_N, loss_N=log_loss(p_true_N), confused=confused, binned=binned)
        guess_N = guessed_class(p_NK)
        if classes == 2:
            # The other column, not 1 - p: near 1 that difference has lost all digits.
            binned = y_N * BINS + _bins(p_NK[:, 1], p_NK[:, 0])
        else:
            curves = np.arange(classes)
            binned = ((2 * curves + (y_N[:, None] == curves)) * BINS + _bins(p_NK, 1 - p_NK)).reshape(-1)
        return cls(
            error_N=(guess_N != y_N).astype(np.float64),
            loss_N=log_loss(p_NK[np.arange(n), y_N]),
            confused=y_N * classes + guess_N,
            binned=binned,
        )


def guessed_class(p_NK: np.ndarray) -> np.ndarray:
    """(N,) the likeliest class, of equally likely ones the first."""
    guess_N: np.ndarray = p_NK[:, 1] > p_NK[:, 0] if p_NK.shape[1] == 2 else p_NK.argmax(axis=1)
    return guess_N  # of two classes as bool: 0 and 1 to whoever counts, at a fifth of the cost


def class_verdict(y_N: np.ndarray, p_NK: np.ndarray) -> Verdict:
    """On (N, K) probabilities that are some."""
    said_N = guessed_class(p_NK).astype(np.int64)
    # Class by class over all records: the largest of each row by itself takes five times as long.
    largest_N = p_NK[:, 0]
    for p_N in p_NK.T[1:]:
        largest_N = np.maximum(largest_N, p_N)
    return Verdict((said_N != y_N).astype(np.float64), said_N, 1.0 - largest_N)


def number_error(y_N: np.ndarray, prediction_N: np.ndarray) -> np.ndarray:
    """(N,) float64, the absolute error."""
    return np.abs(y_N.astype(np.float64) - prediction_N)


def _bins(p: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Bin of each probability by its odds against the rest; monotone in p."""
    log_odds = np.log(np.maximum(p, ODDS_MIN) / np.maximum(rest, ODDS_MIN))
    position = log_odds / (np.abs(log_odds) + ODDS_KNEE)  # within (-1, 1)
    return ((position + 1) * (BINS / 2)).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberOutcomes:
    """Per record: the label and the absolute error, both float64."""

    y_N: np.ndarray
    error_N: np.ndarray

    @classmethod
    def of(cls, y_N: np.ndarray, prediction_N: np.ndarray) -> "NumberOutcomes":
        return cls(y_N=y_N.astype(np.float64), error_N=number_error(y_N, prediction_N))
