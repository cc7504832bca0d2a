"""Test, then train: keeps the scores of all models, and of guessing, over predictions made before learning.

N = records of the batch, K = classes. Whoever calls must predict first: this module cannot tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_trainer.errors import CheckpointError, ConfigError, ModelError
from stream_trainer.evaluation.board import Board
from stream_trainer.evaluation.kernel import score_kernel
from stream_trainer.evaluation.outcomes import class_verdict, number_error
from stream_trainer.evaluation.scores import ClassScores
from stream_trainer.evaluation.waiting import Waiting
from stream_trainer.schema import Target, TargetKind
from stream_trainer.types import Prediction, State, Verdict

__all__ = ["ModelScores", "Prequential"]

SUM_TOLERANCE = 1e-3  # of a row of probabilities: wide for float32 and many classes, narrow enough to catch logits
NUMBER_MAX = float(np.finfo(np.float32).max)  # labels end here too; larger errors would overflow when squared


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScores:
    """Name -> score, over all records and over a fading window. Classes: accuracy, log_loss, auc, kappa_temporal;
    number: mae, rmse, r2; the baselines have no auc and no kappa_temporal. NaN: not defined yet."""

    cumulative: Mapping[str, float]
    fading: Mapping[str, float]


class Prequential:
    """The scores of every model and of two baselines, over exactly the same records.

    kappa_temporal = (accuracy - accuracy of no_change) / (1 - accuracy of no_change), both with the same memory:
    above 0 the model is better than repeating the last label; NaN where repeating is never wrong.

    Args:   target: what is predicted.
            models: the names that every `update` will bring predictions of.
            half_life_records: after so many records one counts half in the fading scores; 10,000 keeps the standard
                error of an accuracy near .004 and yet shows a drift within a few thousand records.
    Raises: ConfigError: `half_life_records` is not above 0.

    >>> scores = Prequential(Target.binary("late"), ["mlp"])
    >>> verdicts = scores.update(np.array([0, 1, 1]), {"mlp": np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])})
    >>> verdicts["mlp"].error_N.tolist(), verdicts["mlp"].said_N.tolist()
    ([0.0, 0.0, 1.0], [0, 1, 0])
    >>> {name: round(score, 3) for name, score in scores.scores()["mlp"].cumulative.items()}
    {'accuracy': 0.667, 'log_loss': 0.511, 'auc': 1.0, 'kappa_temporal': 0.0}
    """

    def __init__(self, target: Target, models: Sequence[str], *, half_life_records: int = 10_000) -> None:
        self._target, self._models = target, tuple(models)
        self._half_life_records = half_life_records
        self._board = self._new_board()
        self._waiting = Waiting(target, models)
        self._read: Board | None = None  # what is told until the next record comes

    def update(self, y_N: np.ndarray, predictions: Mapping[str, Prediction]) -> dict[str, Verdict]:
        """Score one batch that no model has learned from yet; all of it or, on an error, nothing.

        Returns: per model what came of each record, in arrival order.
        Raises:  ModelError: predictions of a model are missing, or have another shape than (N, K) or (N,), or are not
                 finite, not probabilities, beyond float32.
        """
        checked = {name: self._shaped(name, y_N, predictions) for name in self._models}
        verdicts = {name: self._verdict(name, y_N, prediction) for name, prediction in checked.items()}
        self._read = None
        taken = self._waiting.take(y_N, checked)
        while self._waiting.full:
            self._board.add(*self._waiting.records())
            self._waiting.clear()
            taken += self._waiting.take(y_N[taken:], {name: p[taken:] for name, p in checked.items()})
        return verdicts

    def scores(self) -> dict[str, ModelScores]:
        """Per model. Walks the histograms behind auc: for each report, not for each batch."""
        return {name: ModelScores(**self._to_read().values(name)) for name in self._models}

    def baselines(self) -> dict[str, ModelScores]:
        """What "majority" and "no_change" scored over the same records."""
        return {name: ModelScores(**values) for name, values in self._to_read().guess_values().items()}

    def confusion_KK(self, model: str, form: str = "cumulative") -> np.ndarray:
        """Weight of the records by true class (row) and guessed class (column); cumulative: their number.

        Raises: ConfigError: the target is a number.
        """
        scores = self._to_read().models[model][form]
        if not isinstance(scores, ClassScores):
            raise ConfigError(f"target {self._target.name!r} is a number; only classes can be confused.")
        return scores.confusion_KK

    def capture(self) -> State:
        board, waiting = self._board.capture(), State.join({"waiting": self._waiting.capture()})
        return State(
            arrays={**board.arrays, **waiting.arrays},
            values={"of": self._identity(), **board.values, **waiting.values},
        )

    def restore(self, state: State) -> None:
        found, expected = state.values["of"], self._identity()
        if found != expected:
            raise CheckpointError(
                f"scores: the checkpoint holds scores of {found}, this run keeps scores of {expected}. "
                "Use the configuration the checkpoint was written with, or start fresh."
            )
        self._read = None
        self._board.restore(state)
        self._waiting.clear()
        if "waiting" in state.values:  # in older states nobody waited
            self._waiting.restore(state.part("waiting"))

    def _new_board(self) -> Board:
        return Board(self._target, self._models, self._half_life_records)

    def _to_read(self) -> Board:
        """The sums with those who wait. A copy: reading them must not move the grid on which records are summed."""
        if self._read is None:
            self._read = self._board
            if len(self._waiting):
                self._read = self._new_board()
                self._read.restore(self._board.capture())
                self._read.add(*self._waiting.records())
        return self._read

    def _identity(self) -> dict[str, Any]:
        return {
            "target": self._target.name,
            "classes": list(self._target.classes),
            "models": list(self._models),
            "half_life_records": self._half_life_records,
        }

    def _shaped(self, name: str, y_N: np.ndarray, predictions: Mapping[str, Prediction]) -> Prediction:
        if name not in predictions:
            came = ", ".join(sorted(predictions)) or "none"
            raise ModelError(f"model {name!r}: expected predictions of every model, came those of: {came}.")
        prediction = np.ascontiguousarray(predictions[name], dtype=np.float64)
        width = (len(self._target.classes),) if self._target.kind is TargetKind.CLASSES else ()
        _check_shape(name, prediction, (len(y_N), *width))
        return prediction

    def _verdict(self, name: str, y_N: np.ndarray, prediction: Prediction) -> Verdict:
        """On predictions that are some, which is seen here too."""
        if self._target.kind is TargetKind.NUMBER:
            _check_numbers(name, prediction)
            return Verdict(number_error(y_N, prediction), prediction, None)
        compiled, n = score_kernel(), len(y_N)
        if compiled is not None:
            labels_N = np.ascontiguousarray(y_N, dtype=np.int64)
            verdict = Verdict(np.empty(n), np.empty(n, np.int64), np.empty(n))
            if compiled.class_verdict(prediction, labels_N, *verdict, SUM_TOLERANCE):
                return verdict
        _check_probabilities(name, prediction)
        return class_verdict(y_N, prediction)


def _check_shape(name: str, prediction: np.ndarray, expected: tuple[int, ...]) -> None:
    if prediction.shape != expected:
        raise ModelError(
            f"model {name!r}: predict returned shape {prediction.shape}, expected {expected}: one row a record, "
            "and for classes one column a class."
        )


def _check_probabilities(name: str, p_NK: np.ndarray) -> None:
    # Written so that NaN fails, and so that nothing is summed that would make numpy warn.
    if p_NK.size == 0 or (p_NK.min() >= 0 and _near_one(_sums(p_NK)).all()):
        return
    with np.errstate(invalid="ignore"):
        good_N = (p_NK.min(axis=1) >= 0) & _near_one(_sums(p_NK))
    row = int(good_N.argmin())
    raise ModelError(
        f"model {name!r}: predict returned {p_NK[row, :10].tolist()} for record {row} of the batch; "
        "expected finite probabilities that sum to 1. Does the network end in logits, or has it diverged?"
    )


def _near_one(sums_N: np.ndarray) -> np.ndarray:
    near_N: np.ndarray = np.abs(sums_N - 1) <= SUM_TOLERANCE
    return near_N


def _sums(p_NK: np.ndarray) -> np.ndarray:
    return p_NK @ np.ones(p_NK.shape[1])  # several times faster than sum(axis=1) over few columns


def _check_numbers(name: str, prediction_N: np.ndarray) -> None:
    good_N = np.abs(prediction_N) <= NUMBER_MAX  # False for NaN and infinity too
    if not good_N.all():
        row = int(good_N.argmin())
        raise ModelError(
            f"model {name!r}: predict returned {prediction_N[row]} for record {row} of the batch; "
            "expected a finite number that float32 can hold. Has the model diverged?"
        )
