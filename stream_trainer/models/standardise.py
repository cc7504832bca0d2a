"""Puts numbers on one scale while they stream by: zero mean and unit variance over the records of late.

Legend: N = records, C = columns. Memory is counted in records: with half-life H a value weighs 2^(-a/H) when `a` values
of its column came after it, wherever the batches were cut. A missing value ages nothing. Numpy in float64: a few
microseconds a call, where the same in torch takes ten times as long.
Not here: the norm layers (norms/), which do for the hidden layers what this does for inputs and targets.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from stream_trainer.errors import CheckpointError, ConfigError
from stream_trainer.schema import Schema
from stream_trainer.types import Batch

__all__ = ["InputStandardiser", "RunningScale"]

# float32 cannot hold a variation smaller than this share of the mean: what is left is rounding, not signal.
CONSTANT_BELOW = 2.0**-24


class RunningScale:
    """Mean and variance of each column over about the last `half_life_records` records, and the scale they give.

    >>> scale = RunningScale(columns=1, half_life_records=1000)
    >>> scale.observe(np.array([[1.0], [3.0]]))
    >>> scale.standardise(np.array([[3.0]])).round(2)
    array([[1.]])
    """

    def __init__(self, *, columns: int, half_life_records: float) -> None:
        if not half_life_records > 0:
            raise ConfigError(f"half_life_records is {half_life_records}; expected a positive number of records.")
        self.half_life_records = half_life_records
        # Replaced, never written into: whoever keeps the three has a copy of the past for free.
        self.weight_C = np.zeros(columns)
        self.mean_C = np.zeros(columns)
        self.var_C = np.zeros(columns)
        self.inverse_C = np.zeros(columns)  # 1 / std; 0 while a column is unknown or constant

    def observe(
        self, x_NC: np.ndarray, missing_NC: np.ndarray | None = None, within_NC: np.ndarray | float = 0.0
    ) -> None:
        """Take in a batch, in arrival order.

        `within_NC` is the variance inside an entry, where an entry is itself a mean over many values (an image).
        """
        n_records = len(x_NC)
        if missing_NC is None:
            age_N1 = np.arange(n_records - 1, -1, -1.0)[:, None]
            weight_NC = np.exp2(age_N1 * (-1.0 / self.half_life_records))
            kept_C = self.weight_C * 0.5 ** (n_records / self.half_life_records)
        else:
            present_NC = ~missing_NC
            later_NC = present_NC[::-1].cumsum(axis=0)[::-1] - present_NC
            weight_NC = np.exp2(later_NC * (-1.0 / self.half_life_records)) * present_NC
            kept_C = self.weight_C * np.exp2(present_NC.sum(axis=0) * (-1.0 / self.half_life_records))
        added_C = weight_NC.sum(axis=0)
        weighed_C = np.maximum(added_C, 1e-300)  # a column without a value in this batch has share 0 below
        batch_mean_C = (weight_NC * x_NC).sum(axis=0) / weighed_C
        batch_var_C = (weight_NC * ((x_NC - batch_mean_C) ** 2 + within_NC)).sum(axis=0) / weighed_C

        total_C = kept_C + added_C
        share_C = added_C / np.maximum(total_C, 1e-300)
        step_C = batch_mean_C - self.mean_C
        self.mean_C = self.mean_C + share_C * step_C
        self.var_C = (1 - share_C) * (self.var_C + share_C * step_C**2) + share_C * batch_var_C
        self.weight_C = total_C
        self._rescale()

    def _rescale(self) -> None:
        varies_C = self.var_C > (CONSTANT_BELOW * self.mean_C) ** 2
        self.inverse_C = np.where(varies_C, 1.0 / np.sqrt(np.where(varies_C, self.var_C, 1.0)), 0.0)

    def standardise(self, x_NC: np.ndarray) -> np.ndarray:
        """(x - mean) / std in float64; 0 in a column of which nothing is known yet, or that never varies."""
        return (x_NC - self.mean_C) * self.inverse_C

    def restore_units(self, z_NC: np.ndarray) -> np.ndarray:
        """Back from standardised: z std + mean; the mean where the std is 0."""
        return z_NC * np.sqrt(np.where(self.inverse_C > 0, self.var_C, 0.0)) + self.mean_C

    @property
    def memory(self) -> tuple[np.ndarray, ...]:
        """Weight, mean, variance; give it back to `recall` to undo what was observed since."""
        return self.weight_C, self.mean_C, self.var_C

    def recall(self, memory: tuple[np.ndarray, ...]) -> None:
        self.weight_C, self.mean_C, self.var_C = memory
        self._rescale()

    def capture(self) -> dict[str, np.ndarray]:
        return dict(zip(("weight", "mean", "var"), (array.copy() for array in self.memory)))

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Raises CheckpointError if the arrays are of another number of columns."""
        found = {
            name: torch.as_tensor(arrays[name]).double().numpy().copy()
            for name in ("weight", "mean", "var")
            if name in arrays
        }
        shapes = {name: array.shape for name, array in found.items()}
        if len(found) < 3 or set(shapes.values()) != {self.weight_C.shape}:
            raise CheckpointError(
                f"standardiser: expected weight, mean and var for {len(self.weight_C)} columns, got {shapes}. "
                "The checkpoint belongs to another schema."
            )
        self.recall(tuple(found.values()))


class InputStandardiser:
    """A batch as a network wants it: numbers with their missing flags, categories, one tensor per array feature.

    A missing number becomes 0, the mean, and its flag 1. All pixels of an array feature share one scale, so that an
    image stays an image. Categories pass as they are.
    """

    def __init__(self, schema: Schema, *, half_life_records: float, abs_max: float) -> None:
        self._optional = list(schema.optional_numbers)
        self._has_categories = bool(schema.categories)
        self._arrays = tuple(feature.name for feature in schema.arrays)
        self._abs_max = abs_max
        columns = {"numbers": len(schema.numbers)} if schema.numbers else {}
        columns.update({f"array {name}": 1 for name in self._arrays})
        self._scales = {
            name: RunningScale(columns=width, half_life_records=half_life_records) for name, width in columns.items()
        }

    def observe(self, batch: Batch) -> None:
        """Move the moments by one batch; `inputs` then uses the moved ones."""
        if "numbers" in self._scales:
            self._scales["numbers"].observe(batch.x_NF, batch.missing_NF)
        for name in self._arrays:
            x_NP = batch.arrays[name].reshape(len(batch), -1)
            mean_N1 = x_NP.mean(axis=1, dtype=np.float64, keepdims=True)
            self._scales[f"array {name}"].observe(mean_N1, within_NC=x_NP.var(axis=1, dtype=np.float64, keepdims=True))

    def numbers(self, batch: Batch) -> np.ndarray:
        """(N, F) float32: standardised, cut to ±abs_max, 0 where missing."""
        z_NF = self._cut(self._scales["numbers"].standardise(batch.x_NF))
        if batch.missing_NF is not None:
            z_NF[batch.missing_NF] = 0.0
        return z_NF

    def arrays(self, batch: Batch) -> list[np.ndarray]:
        """One (N, *shape) float32 per array feature, in declaration order."""
        scales = [self._scales[f"array {name}"] for name in self._arrays]
        return [self._cut(scale.standardise(batch.arrays[name])) for name, scale in zip(self._arrays, scales)]

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """The arguments of `forward`, in the order of `InputWidths`; what the schema lacks is left out."""
        columns: list[np.ndarray] = []
        if "numbers" in self._scales:
            z_NF = self.numbers(batch)
            if batch.missing_NF is not None:
                z_NF = np.concatenate([z_NF, batch.missing_NF[:, self._optional].astype(np.float32)], axis=1)
            columns.append(z_NF)
        if self._has_categories:
            category_NC = batch.category_NC  # torch warns of arrays it might write into
            columns.append(category_NC if category_NC.flags.writeable else category_NC.copy())
        return tuple(map(torch.from_numpy, columns + self.arrays(batch)))

    def _cut(self, z: np.ndarray) -> np.ndarray:
        return np.clip(z, -self._abs_max, self._abs_max).astype(np.float32)

    @property
    def memory(self) -> dict[str, tuple[np.ndarray, ...]]:
        """What `recall` needs to undo what was observed since; costs nothing."""
        return {name: scale.memory for name, scale in self._scales.items()}

    def recall(self, memory: dict[str, tuple[np.ndarray, ...]]) -> None:
        for name, scale in self._scales.items():
            scale.recall(memory[name])

    def capture(self) -> dict[str, np.ndarray]:
        return {
            f"{name}.{part}": array for name, scale in self._scales.items() for part, array in scale.capture().items()
        }

    def restore(self, arrays: Mapping[str, Any]) -> None:
        for name, scale in self._scales.items():
            prefix = f"{name}."
            scale.restore({key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)})
