"""Test, then train: keeps the scores of all models, and of guessing, over predictions made before learning.

N = records of the batch, K = classes. Whoever calls must predict first: this module cannot tell.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from stream_trainer.contracts import Stateful
from stream_trainer.errors import CheckpointError, ConfigError, ModelError
from stream_trainer.evaluation.baselines import build_baselines
from stream_trainer.evaluation.memory import Memory
from stream_trainer.evaluation.outcomes import ClassOutcomes, NumberOutcomes
from stream_trainer.evaluation.parts import capture_parts, restore_parts
from stream_trainer.evaluation.scores import ClassScores, NumberScores, Rates
from stream_trainer.schema import Target, TargetKind
from stream_trainer.types import Prediction, State

__all__ = ["ModelScores", "Prequential"]

_Outcomes: TypeAlias = ClassOutcomes | NumberOutcomes
_Scores: TypeAlias = Any  # ClassScores, Rates or NumberScores: the target decides which, for all of a run

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
    >>> scores.update(np.array([0, 1, 1]), {"mlp": np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])})
    {'mlp': array([0., 0., 1.])}
    >>> {name: round(score, 3) for name, score in scores.scores()["mlp"].cumulative.items()}
    {'accuracy': 0.667, 'log_loss': 0.511, 'auc': 1.0, 'kappa_temporal': 0.0}
    """

    def __init__(self, target: Target, models: Sequence[str], *, half_life_records: int = 10_000) -> None:
        self._target = target
        self._half_life_records = half_life_records
        self._forms = {"cumulative": Memory(), "fading": Memory(half_life_records)}
        self._models = {name: self._by_form(self._new_scores) for name in models}
        self._guesses = {name: self._by_form(self._new_guess_scores) for name in ("majority", "no_change")}
        self._baselines = build_baselines(target)

    def update(self, y_N: np.ndarray, predictions: Mapping[str, Prediction]) -> dict[str, np.ndarray]:
        """Score one batch that no model has learned from yet; all of it or, on an error, nothing.

        Returns: per model the error of each record in arrival order: 1 wrong and 0 right, or the absolute error.
        Raises:  ModelError: predictions of a model are missing, or have another shape than (N, K) or (N,), or are not
                 finite, not probabilities, beyond float32.
        """
        outcomes = {name: self._outcomes(name, y_N, predictions) for name in self._models}
        for name, outcome in outcomes.items():
            for model_scores in self._models[name].values():
                model_scores.update(outcome)
        for name, baseline in self._baselines.items():
            guesses = baseline.guess(y_N)
            for baseline_scores in self._guesses[name].values():
                baseline_scores.update(guesses)
        return {name: outcome.error_N for name, outcome in outcomes.items()}

    def scores(self) -> dict[str, ModelScores]:
        """Per model. Walks the histograms behind auc: for each report, not for each batch."""
        return {name: ModelScores(**{form: self._values(name, form) for form in self._forms}) for name in self._models}

    def baselines(self) -> dict[str, ModelScores]:
        """What "majority" and "no_change" scored over the same records."""
        return {
            name: ModelScores(**{form: scores.values() for form, scores in by_form.items()})
            for name, by_form in self._guesses.items()
        }

    def confusion_KK(self, model: str, form: str = "cumulative") -> np.ndarray:
        """Weight of the records by true class (row) and guessed class (column); cumulative: their number.

        Raises: ConfigError: the target is a number.
        """
        scores = self._models[model][form]
        if not isinstance(scores, ClassScores):
            raise ConfigError(f"target {self._target.name!r} is a number; only classes can be confused.")
        return scores.confusion_KK

    def capture(self) -> State:
        parts = capture_parts(self._parts())
        return State(arrays=parts.arrays, values={"of": self._identity(), **parts.values})

    def restore(self, state: State) -> None:
        found, expected = state.values["of"], self._identity()
        if found != expected:
            raise CheckpointError(
                f"scores: the checkpoint holds scores of {found}, this run keeps scores of {expected}. "
                "Use the configuration the checkpoint was written with, or start fresh."
            )
        restore_parts(self._parts(), state)

    def _by_form(self, new_scores: Callable[[Memory], _Scores]) -> dict[str, _Scores]:
        return {form: new_scores(memory) for form, memory in self._forms.items()}

    def _identity(self) -> dict[str, Any]:
        return {
            "target": self._target.name,
            "classes": list(self._target.classes),
            "models": list(self._models),
            "half_life_records": self._half_life_records,
        }

    def _parts(self) -> dict[str, Stateful]:
        """Everything in here that remembers, by its path in the state."""
        boards = {"models": self._models, "guesses": self._guesses}
        parts: dict[str, Stateful] = {
            f"{board}/{name}/{form}": scores
            for board, by_name in boards.items()
            for name, by_form in by_name.items()
            for form, scores in by_form.items()
        }
        return parts | {f"baselines/{name}": baseline for name, baseline in self._baselines.items()}

    def _new_scores(self, memory: Memory) -> _Scores:
        if self._target.kind is TargetKind.CLASSES:
            return ClassScores(len(self._target.classes), memory)
        return NumberScores(memory)

    def _new_guess_scores(self, memory: Memory) -> _Scores:
        return Rates(memory) if self._target.kind is TargetKind.CLASSES else NumberScores(memory)

    def _values(self, name: str, form: str) -> dict[str, float]:
        values = self._models[name][form].values()
        if self._target.kind is TargetKind.CLASSES:
            no_change = self._guesses["no_change"][form].values()["accuracy"]
            wrong = 1 - no_change
            values["kappa_temporal"] = (values["accuracy"] - no_change) / wrong if wrong else math.nan
        return values

    def _outcomes(self, name: str, y_N: np.ndarray, predictions: Mapping[str, Prediction]) -> _Outcomes:
        if name not in predictions:
            came = ", ".join(sorted(predictions)) or "none"
            raise ModelError(f"model {name!r}: expected predictions of every model, came those of: {came}.")
        prediction = np.asarray(predictions[name], dtype=np.float64)
        if self._target.kind is TargetKind.CLASSES:
            _check_shape(name, prediction, (len(y_N), len(self._target.classes)))
            _check_probabilities(name, prediction)
            return ClassOutcomes.of(y_N, prediction)
        _check_shape(name, prediction, (len(y_N),))
        _check_numbers(name, prediction)
        return NumberOutcomes.of(y_N, prediction)


def _check_shape(name: str, prediction: np.ndarray, expected: tuple[int, ...]) -> None:
    if prediction.shape != expected:
        raise ModelError(
            f"model {name!r}: predict returned shape {prediction.shape}, expected {expected}: one row a record, "
            "and for classes one column a class."
        )


def _check_probabilities(name: str, p_NK: np.ndarray) -> None:
    # Written so that NaN fails, and so that nothing is summed that would make numpy warn.
    if p_NK.size == 0 or (p_NK.min() >= 0 and np.abs(_sums(p_NK) - 1).max() <= SUM_TOLERANCE):
        return
    with np.errstate(invalid="ignore"):
        good_N = (p_NK.min(axis=1) >= 0) & (np.abs(_sums(p_NK) - 1) <= SUM_TOLERANCE)
    row = int(good_N.argmin())
    raise ModelError(
        f"model {name!r}: predict returned {p_NK[row, :10].tolist()} for record {row} of the batch; "
        "expected finite probabilities that sum to 1. Does the network end in logits, or has it diverged?"
    )


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
