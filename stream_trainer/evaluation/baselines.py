"""What guessing would have scored: the yardsticks without which no score means anything.

Each guesses every record from the records before it, inside the batch too, so the cut does not matter at all.
N = records of the batch, K = classes. `majority`: the class, or the mean, of all records so far. `no_change`: the
label of the record before; on streams with runs of equal labels it beats many a model. Before the first record both
guess class 0 with all classes equally likely; a first number cannot be guessed and is not scored.
Source for the second: Zliobaite, Bifet, Read, Pfahringer, Holmes, "Evaluation methods and decision theory for
classification of streaming data with temporal dependence", 2015.
"""

from typing import Any

import numpy as np

from stream_trainer.evaluation.kernel import score_kernel
from stream_trainer.evaluation.outcomes import Guesses, NumberOutcomes, log_loss
from stream_trainer.schema import Target, TargetKind
from stream_trainer.types import State

__all__ = ["LastClass", "LastNumber", "MajorityClass", "MeanNumber", "build_baselines"]


class MajorityClass:
    """The commonest class so far; of equally common ones the one that was first to be so common.

    Probabilities are (count + 1) / (records + K): Laplace's rule, so that a new class does not cost infinity.
    """

    def __init__(self, classes: int) -> None:
        self._count_K = np.zeros(classes, dtype=np.int64)
        self._majority = 0

    def guess(self, y_N: np.ndarray) -> Guesses:
        n, classes = len(y_N), len(self._count_K)
        compiled = score_kernel()
        if compiled is not None:
            error_N, p_true_N = np.empty(n), np.empty(n)
            self._majority = compiled.guess_majority(y_N, self._count_K, self._majority, error_N, p_true_N)
            return Guesses(error_N=error_N, loss_N=log_loss(p_true_N))
        in_batch_K = np.bincount(y_N, minlength=classes)
        before_N = self._count_K[y_N] + _earlier_equals(y_N, in_batch_K)  # records of the same class so far
        seen_N = np.arange(self._count_K.sum(), self._count_K.sum() + n)
        # A class takes the lead when its count passes the highest so far, and keeps it until another one does.
        highest_N = np.maximum.accumulate(np.concatenate([[self._count_K.max()], before_N + 1]))
        takes_lead_N = highest_N[1:] > highest_N[:-1]
        last_change_N = np.maximum.accumulate(np.concatenate([[0], np.arange(1, n + 1) * takes_lead_N]))
        leader_N = np.concatenate([[self._majority], y_N])[last_change_N]  # before each record, and after the last

        self._count_K += in_batch_K
        self._majority = int(leader_N[-1])
        error_N = (leader_N[:-1] != y_N).astype(np.float64)
        return Guesses(error_N=error_N, loss_N=log_loss((before_N + 1) / (seen_N + classes)))

    def capture(self) -> State:
        return State(arrays={"count": self._count_K.copy()}, values={"majority": self._majority})

    def restore(self, state: State) -> None:
        self._count_K[...] = state.arrays["count"]
        self._majority = int(state.values["majority"])


def _earlier_equals(y_N: np.ndarray, in_batch_K: np.ndarray) -> np.ndarray:
    """For each record the number of records before it, in this batch, that have the same label."""
    small = np.int16 if len(in_batch_K) < 2**15 else np.int64  # numpy sorts 16 bits several times faster
    order = np.argsort(y_N.astype(small), kind="stable")
    first_K = np.cumsum(in_batch_K) - in_batch_K
    earlier_N = np.empty(len(y_N), dtype=np.int64)
    earlier_N[order] = np.arange(len(y_N)) - np.repeat(first_K, in_batch_K)
    return earlier_N


class LastClass:
    """The class of the record before.

    Its probability is the share of records so far that repeated theirs, (repeats + 1) / (records + K); what is left is
    spread evenly over the other classes.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._last = 0
        self._repeats = 0
        self._records = 0

    def guess(self, y_N: np.ndarray) -> Guesses:
        n, compiled = len(y_N), score_kernel()
        if compiled is not None and n:
            error_N, p_true_N = np.empty(n), np.empty(n)
            self._repeats = compiled.guess_last(
                y_N, self._last, self._repeats, self._records, self._classes, error_N, p_true_N
            )
            self._last = int(y_N[-1])
            self._records += n
            return Guesses(error_N=error_N, loss_N=log_loss(p_true_N))
        repeat_N = y_N == np.concatenate([[self._last], y_N[:-1]])[:n]
        repeats_before_N = self._repeats + np.cumsum(repeat_N) - repeat_N
        p_repeat_N = (repeats_before_N + 1) / (self._records + np.arange(n) + self._classes)
        if n:
            self._last = int(y_N[-1])
        self._repeats += int(repeat_N.sum())
        self._records += n
        p_true_N = np.where(repeat_N, p_repeat_N, (1 - p_repeat_N) / (self._classes - 1))
        return Guesses(error_N=1.0 - repeat_N, loss_N=log_loss(p_true_N))

    def capture(self) -> State:
        return State(values={"last": self._last, "repeats": self._repeats, "records": self._records})

    def restore(self, state: State) -> None:
        self._last, self._repeats, self._records = (int(state.values[k]) for k in ("last", "repeats", "records"))


class MeanNumber:
    """The mean of all labels so far."""

    def __init__(self) -> None:
        self._records = 0
        self._origin = 0.0  # the first label: sums of distances from it keep their digits far from zero
        self._sum = 0.0

    def guess(self, y_N: np.ndarray) -> NumberOutcomes:
        y_N = y_N.astype(np.float64)
        first = min(len(y_N), self._records == 0)
        if first:
            self._origin = float(y_N[0])
        sums = np.cumsum(np.concatenate([[self._sum], y_N - self._origin]))
        records_N = self._records + np.arange(len(y_N))
        self._records += len(y_N)
        self._sum = float(sums[-1])
        return NumberOutcomes.of(y_N[first:], self._origin + sums[first:-1] / records_N[first:])

    def capture(self) -> State:
        return State(values={"records": self._records, "origin": self._origin, "sum": self._sum})

    def restore(self, state: State) -> None:
        self._records = int(state.values["records"])
        self._origin, self._sum = float(state.values["origin"]), float(state.values["sum"])


class LastNumber:
    """The label of the record before."""

    def __init__(self) -> None:
        self._last: float | None = None

    def guess(self, y_N: np.ndarray) -> NumberOutcomes:
        known = y_N.astype(np.float64)
        if self._last is not None:
            known = np.concatenate([[self._last], known])
        if len(known):
            self._last = float(known[-1])
        return NumberOutcomes.of(known[1:], known[:-1])

    def capture(self) -> State:
        return State(values={"last": self._last})

    def restore(self, state: State) -> None:
        self._last = state.values["last"]


def build_baselines(target: Target) -> dict[str, Any]:
    """The two baselines for a target, by the names under which their scores are shown."""
    if target.kind is TargetKind.NUMBER:
        return {"majority": MeanNumber(), "no_change": LastNumber()}
    classes = len(target.classes)
    return {"majority": MajorityClass(classes), "no_change": LastClass(classes)}
