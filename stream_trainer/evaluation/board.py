"""All sums behind the scores of one run: every model and every baseline, each over every memory.

N = records, K = classes. Given records that are checked; what is asked of them, and when, is said in prequential.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from stream_trainer.contracts import Stateful
from stream_trainer.evaluation.baselines import build_baselines
from stream_trainer.evaluation.memory import Memory
from stream_trainer.evaluation.outcomes import ClassOutcomes, NumberOutcomes
from stream_trainer.evaluation.parts import capture_parts, restore_parts
from stream_trainer.evaluation.scores import ClassScores, NumberScores, Rates
from stream_trainer.schema import Target, TargetKind
from stream_trainer.types import Prediction, State

__all__ = ["Board"]

_Scores: TypeAlias = Any  # ClassScores, Rates or NumberScores: the target decides which, for all of a run


class Board:
    """Scores by name and form: "cumulative" never forgets, "fading" by `half_life_records`."""

    def __init__(self, target: Target, models: Sequence[str], half_life_records: int) -> None:
        self._classes = len(target.classes) if target.kind is TargetKind.CLASSES else None
        self._forms = {"cumulative": Memory(), "fading": Memory(half_life_records)}
        self._baselines = build_baselines(target)
        self.models = {name: self._by_form(self._new_scores) for name in models}
        self.guesses = {name: self._by_form(self._new_guess_scores) for name in self._baselines}

    def add(self, y_N: np.ndarray, predictions: Mapping[str, Prediction]) -> None:
        """Sum up records in arrival order."""
        of = NumberOutcomes.of if self._classes is None else ClassOutcomes.of
        for name, by_form in self.models.items():
            outcomes = of(y_N, predictions[name])
            for scores in by_form.values():
                scores.update(outcomes)
        for name, baseline in self._baselines.items():
            guesses = baseline.guess(y_N)
            for scores in self.guesses[name].values():
                scores.update(guesses)

    def values(self, model: str) -> dict[str, dict[str, float]]:
        """Form -> score name -> score of one model."""
        return {form: self._values(model, form) for form in self._forms}

    def guess_values(self) -> dict[str, dict[str, dict[str, float]]]:
        """The same of every baseline, by its name."""
        return {
            name: {form: scores.values() for form, scores in by_form.items()} for name, by_form in self.guesses.items()
        }

    def capture(self) -> State:
        return capture_parts(self._parts())

    def restore(self, state: State) -> None:
        restore_parts(self._parts(), state)

    def _parts(self) -> dict[str, Stateful]:
        """Everything in here that remembers, by its path in the state."""
        boards = {"models": self.models, "guesses": self.guesses}
        parts: dict[str, Stateful] = {
            f"{board}/{name}/{form}": scores
            for board, by_name in boards.items()
            for name, by_form in by_name.items()
            for form, scores in by_form.items()
        }
        return parts | {f"baselines/{name}": baseline for name, baseline in self._baselines.items()}

    def _by_form(self, new_scores: Callable[[Memory], _Scores]) -> dict[str, _Scores]:
        return {form: new_scores(memory) for form, memory in self._forms.items()}

    def _new_scores(self, memory: Memory) -> _Scores:
        return NumberScores(memory) if self._classes is None else ClassScores(self._classes, memory)

    def _new_guess_scores(self, memory: Memory) -> _Scores:
        return NumberScores(memory) if self._classes is None else Rates(memory)

    def _values(self, model: str, form: str) -> dict[str, float]:
        values: dict[str, float] = self.models[model][form].values()
        if self._classes is not None:
            no_change = self.guesses["no_change"][form].values()["accuracy"]
            wrong = 1 - no_change
            values["kappa_temporal"] = (values["accuracy"] - no_change) / wrong if wrong else math.nan
        return values
