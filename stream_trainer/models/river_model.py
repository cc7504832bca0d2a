"""A River estimator, or a pipeline of them, as a model that takes batches: record by record, in arrival order.

Legend: N = records, K = classes. A record reaches River as a dict: numbers as floats, left out when missing; a category
as its bucket in a string, so that trees take it as nominal, or as {"name=bucket": 1.0} for models that want numbers;
the values of an array feature under "name[0]", "name[1]", ... The target is the index of the class, an int: binary
estimators need 0 and 1, and sets of ints have the same order in every process, so runs repeat.
Refused: a checkpoint of another River version, for its pickles do not survive one. Not here: `learn_many`: it wants a
data frame, few estimators have it, and one step on a mean is not n steps.
"""

import math
import pickle
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
from river import compose

from stream_trainer.errors import CheckpointError, ModelError
from stream_trainer.models.river_mend import mend_leaf_counts
from stream_trainer.models.river_options import RiverOptions, build_estimator
from stream_trainer.models.standardise import InputStandardiser
from stream_trainer.schema import Schema, TargetKind
from stream_trainer.types import Batch, LearnReport, Prediction, State

__all__ = ["RiverModel"]

CERTAINTY = 0.95  # of an estimator that names a class and no probability: finite log-loss, and still the clear winner


class RiverModel:
    """A `contracts.Model` around one River estimator.

    A classifier's probabilities are brought to sum 1, 0 for classes it never saw, uniform while it knows nothing; a
    regressor's missing or non-finite value is 0. `predict` changes nothing as far as the estimator keeps to that. All
    that River 0.26 builds from defaults do, but BayesianLinearRegression: it keeps the solution it worked out.
    """

    def __init__(self, schema: Schema, options: RiverOptions) -> None:
        """Raises ConfigError as `build_estimator` does."""
        self.schema, self.options = schema, options
        mend_leaf_counts()
        self.estimator = build_estimator(schema, options)
        self._records = 0
        self._classes = schema.target.kind is TargetKind.CLASSES
        self._standardiser: InputStandardiser | None = None
        if options.inputs == "standardised":
            self._standardiser = InputStandardiser(
                schema, half_life_records=options.input_half_life_records, abs_max=options.input_abs_max
            )
        self._number_names = [feature.name for feature in schema.numbers]
        self._category_names = [feature.name for feature in schema.categories]
        self._array_names = [
            [f"{feature.name}[{i}]" for i in range(math.prod(feature.shape))] for feature in schema.arrays
        ]

    # ------------------------------------------------------------ predict, learn

    def predict(self, batch: Batch) -> Prediction:
        """(N, K) probabilities, or (N,) values. Raises: ModelError: the estimator raised."""
        if self._records == 0:  # not asked: forests and pipelines set themselves up when first touched, a change
            n_classes = len(self.schema.target.classes)
            return np.full((len(batch), n_classes), 1.0 / n_classes) if self._classes else np.zeros(len(batch))
        answer = self._probabilities if self._classes else self._value
        return np.array([self._ask(answer, row) for row in self._rows(batch)], np.float64)

    def _ask(self, answer: Callable[[dict[str, Any]], Any], row: dict[str, Any]) -> Any:
        try:
            return answer(row)
        except Exception as error:
            raise self._failure("predict_one", error, row) from error

    def _value(self, row: dict[str, Any]) -> float:
        value = self.estimator.predict_one(row)
        return value if value is not None and math.isfinite(value) else 0.0

    def _probabilities(self, row: dict[str, Any]) -> list[float]:
        n_classes = len(self.schema.target.classes)
        try:
            found = self.estimator.predict_proba_one(row)
        except NotImplementedError:  # River's way to say that this estimator only names a class
            named = self.estimator.predict_one(row)
            found = dict.fromkeys(range(n_classes), (1 - CERTAINTY) / (n_classes - 1)) | {named: CERTAINTY}
        shares = [found.get(k, 0.0) for k in range(n_classes)]
        total = math.fsum(shares)
        if not (math.isfinite(total) and total > 0.0):
            return [1.0 / n_classes] * n_classes
        return [share / total for share in shares]

    def learn(self, batch: Batch) -> LearnReport:
        """Every record once, in order. Raises: ModelError: the estimator raised; the records before it are learned."""
        if self._standardiser is not None:
            self._standardiser.observe(batch)
        for row, y in zip(self._rows(batch), batch.y_N.tolist()):
            try:
                self.estimator.learn_one(row, y)
            except Exception as error:
                raise self._failure("learn_one", error, row) from error
        self._records += len(batch)
        return LearnReport()

    def _failure(self, method: str, error: Exception, row: dict[str, Any]) -> ModelError:
        return ModelError(
            f"{type(self.estimator).__name__}.{method} raised {type(error).__name__}: {error}, at record {row}. "
            "If it wants numbers: categories are strings here, so set river.categories: one_hot for linear parts, and "
            "leaf_prediction: mean for regression trees. Go on from the last checkpoint."
        )

    def _rows(self, batch: Batch) -> Iterator[dict[str, Any]]:
        numbers_NF, arrays = batch.x_NF, [batch.arrays[feature.name] for feature in self.schema.arrays]
        if self._standardiser is not None:
            numbers_NF = self._standardiser.numbers(batch) if self._number_names else numbers_NF
            arrays = self._standardiser.arrays(batch)
        missing = None if batch.missing_NF is None else batch.missing_NF.tolist()
        for i, numbers in enumerate(numbers_NF.tolist()):
            row: dict[str, Any] = dict(zip(self._number_names, numbers))
            if missing is not None and any(missing[i]):
                row = {name: value for (name, value), absent in zip(row.items(), missing[i]) if not absent}
            buckets = zip(self._category_names, batch.category_NC[i].tolist())
            if self.options.categories == "one_hot":
                row.update((f"{name}={bucket}", 1.0) for name, bucket in buckets)
            else:
                row.update((name, str(bucket)) for name, bucket in buckets)
            for array_names, array in zip(self._array_names, arrays):
                row.update(zip(array_names, array[i].ravel().tolist()))
            yield row

    # ------------------------------------------------------------ survive

    def capture(self) -> State:
        """The estimator as a pickle: River has no safe form."""
        arrays = {} if self._standardiser is None else self._standardiser.capture()
        return State(
            arrays={f"standardiser.{name}": array for name, array in arrays.items()},
            values={"records": self._records, **self._identity()},
            pickles={"estimator": pickle.dumps(self.estimator, protocol=5)},
        )

    def restore(self, state: State) -> None:
        """Become what was captured; executes its pickle, so the caller must trust where it comes from.

        Raises: CheckpointError: another River version, schema or estimator.
        """
        for name, value in self._identity().items():
            if state.values.get(name) != value:
                fix = (
                    f"Install river=={state.values.get(name)}, or replay the log into a fresh checkpoint directory."
                    if name == "river"
                    else "Start with the configuration it was saved with, or from a fresh checkpoint directory."
                )
                raise CheckpointError(
                    f"river model: the checkpoint has {name} {state.values.get(name)!r}, this run {value!r}. {fix}"
                )
        if self._standardiser is not None:
            prefix = "standardiser."
            self._standardiser.restore(
                {name.removeprefix(prefix): a for name, a in state.arrays.items() if name.startswith(prefix)}
            )
        self.estimator = pickle.loads(state.pickles["estimator"])
        self._records = state.values["records"]

    def _identity(self) -> dict[str, Any]:
        steps = self.estimator.steps.values() if isinstance(self.estimator, compose.Pipeline) else [self.estimator]
        return {
            "kind": "river",
            "river": version("river"),
            "features": list(self.schema.feature_names),
            "target": [self.schema.target.name, *self.schema.target.classes],
            "estimator": [f"{type(step).__module__}.{type(step).__qualname__}" for step in steps],
        }
