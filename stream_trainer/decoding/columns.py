"""From rows of Python values to the arrays of a batch, for every line format.

A row holds, in this order: numbers, categories, arrays (nested lists, or bytes), target. The format has already
checked the types; here is what can be checked for a whole batch at once: does float32 hold the numbers, is the class a
known one.
N = rows, F = number features, C = category features.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stream_trainer.decoding.categories import CategoryBuckets
from stream_trainer.decoding.faults import Fault, described, number_fault
from stream_trainer.schema import ArrayBytes, ArrayFeature, Schema, Target, TargetKind
from stream_trainer.types import Batch, RejectReason

__all__ = ["Columns"]

FLOAT32_MAX = float(np.finfo(np.float32).max)
_DTYPES: dict[ArrayBytes, np.dtype[Any]] = {ArrayBytes.UINT8: np.dtype("u1"), ArrayBytes.FLOAT32: np.dtype("<f4")}


class Columns:
    """Builds batches for one schema. Whether a row is kept depends on that row alone, never on its neighbours."""

    def __init__(self, schema: Schema) -> None:
        self._numbers = [feature.name for feature in schema.numbers]
        self._optional_F = np.array([feature.optional for feature in schema.numbers], dtype=bool)
        self._buckets = [CategoryBuckets(feature) for feature in schema.categories]
        self._arrays = schema.arrays
        self._target = schema.target
        self._class_index = class_index(schema.target)
        self._width = len(schema.feature_names) + 1

    def build(self, rows: Iterable[Sequence[Any]], timestamps_ms: Sequence[int]) -> tuple[Batch, dict[int, Fault]]:
        """The batch of all good rows in their order, and row number -> fault for the others.

        An absent optional number is None in its row; an absent category likewise. No row at all is fine.
        """
        n = len(timestamps_ms)
        columns = list(zip(*rows)) if n else [()] * self._width
        after_numbers = len(self._numbers)
        after_categories = after_numbers + len(self._buckets)
        faults: dict[int, Fault] = {}

        # float64 first: float32 would turn what is too large into infinity before anyone could see it. None -> NaN.
        x_FN = np.array(columns[:after_numbers], dtype=np.float64).reshape(after_numbers, n)
        for name, x_N in zip(self._numbers, x_FN) if _any_too_large(x_FN) else ():
            _reject_too_large(name, x_N, faults)
        blocks = {}
        for array, column in zip(self._arrays, columns[after_categories:]):
            blocks[array.name] = self._block(array, column, faults)
        y_N = self._labels(columns[-1], faults)
        category_CN = [
            np.array([*map(buckets.__getitem__, column)], dtype=np.int64)
            for buckets, column in zip(self._buckets, columns[after_numbers:after_categories])
        ]

        good = np.array([row not in faults for row in range(n)], dtype=bool) if faults else slice(None)
        x_NF = x_FN.T[good]
        missing_NF = np.isnan(x_NF) if self._optional_F.any() else None
        if missing_NF is not None:
            x_NF = np.where(missing_NF, 0.0, x_NF)
        batch = Batch(
            x_NF=np.ascontiguousarray(x_NF, dtype=np.float32),
            missing_NF=missing_NF,
            category_NC=np.stack(category_CN, axis=1)[good] if category_CN else np.zeros((n, 0), np.int64)[good],
            y_N=y_N[good].astype(np.float32 if self._target.kind is TargetKind.NUMBER else np.int64),
            arrays={name: block[good].astype(np.float32) for name, block in blocks.items()},
            timestamp_ms_N=np.array(timestamps_ms, dtype=np.int64)[good],
        )
        return batch, faults

    def _block(self, array: ArrayFeature, column: Sequence[Any], faults: dict[int, Fault]) -> np.ndarray:
        """(N, *shape) of numbers that float32 can hold, but for the rows in `faults`."""
        shape = (len(column), *array.shape)
        if array.bytes is not None:
            block = np.frombuffer(b"".join(column), _DTYPES[array.bytes]).reshape(shape)
            if array.bytes is ArrayBytes.FLOAT32 and not np.isfinite(block).all():
                _reject_not_finite(array.name, block, faults)
            return block
        block = np.array(column, dtype=np.float64).reshape(shape)
        if _any_too_large(block):
            _reject_too_large(array.name, block, faults)
        return block

    def _labels(self, column: Sequence[Any], faults: dict[int, Fault]) -> np.ndarray:
        if self._target.kind is TargetKind.NUMBER:
            y_N = np.array(column, dtype=np.float64)
            if _any_too_large(y_N):
                _reject_too_large(self._target.name, y_N, faults)
            return y_N
        known = self._class_index
        y_N = np.array([known.get(label, -1) for label in column], dtype=np.int64)
        for row in np.flatnonzero(y_N < 0).tolist():
            faults.setdefault(row, _unknown_class(self._target, column[row]))
        return y_N


def class_index(target: Target) -> dict[str | int, int]:
    """Class as it may stand in a record -> index: the declared name, or the integer that is written like it.

    True and False are 1 and 0 to a dict; only the binary target lets them come this far.
    """
    indices: dict[str | int, int] = {name: index for index, name in enumerate(target.classes)}
    indices.update((int(name), index) for index, name in enumerate(target.classes) if _is_plain_integer(name))
    return indices


def _is_plain_integer(name: str) -> bool:
    digits = name.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 20 and str(int(name)) == name


def _any_too_large(values: np.ndarray) -> bool:
    return bool((np.abs(values) > FLOAT32_MAX).any())  # NaN, an absent number, is not


def _reject_too_large(name: str, values: np.ndarray, faults: dict[int, Fault]) -> None:
    """Axis 0 of `values` is the row."""
    by_row = values.reshape(len(values), -1)
    large = np.abs(by_row) > FLOAT32_MAX
    for row in np.flatnonzero(large.any(axis=1)).tolist():
        faults.setdefault(row, number_fault(name, float(by_row[row, large[row].argmax()])))


def _reject_not_finite(name: str, block: np.ndarray, faults: dict[int, Fault]) -> None:
    """Bytes can hold what JSON cannot write: NaN and infinities."""
    bad = ~np.isfinite(block)
    for row in np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1)).tolist():
        index = np.unravel_index(bad[row].argmax(), bad.shape[1:])
        field = name + "".join(f"[{i}]" for i in index)
        detail = f"{field}: expected a finite number, came {'NaN' if np.isnan(block[row][index]) else 'Infinity'}"
        faults.setdefault(row, Fault(RejectReason.NOT_FINITE, detail))


def _unknown_class(target: Target, label: str | int) -> Fault:
    names = ", ".join(target.classes[:10]) + (", ..." if len(target.classes) > 10 else "")
    detail = f"{target.name}: expected one of the classes {names}; came {described(label)}"
    return Fault(RejectReason.UNKNOWN_CLASS, detail)
