"""Records as models see them: arrays ready to learn from, and those that no model will see."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from stream_trainer.types.records import Headers, TopicPartition

__all__ = ["Batch", "Decoded", "Reject", "RejectReason"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Decoded records in arrival order, ready to learn from; N may be 1, and never 0 when a model sees it."""

    x_NF: np.ndarray  # float32, finite: the decoder rejects, it does not repair; 0 where missing
    missing_NF: np.ndarray | None  # bool; None: the schema has no optional number
    category_NC: np.ndarray  # int64 bucket indices
    y_N: np.ndarray  # float32 (number) or int64 class index
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> (N, *shape) float32
    timestamp_ms_N: np.ndarray  # int64, when the log says the record was written; -1: unknown

    def __len__(self) -> int:
        return len(self.y_N)

    def rows(self, rows_M: np.ndarray | slice) -> "Batch":
        """The records of `rows_M`, in that order; a row may come several times. A slice gives views, not copies."""
        return Batch(
            x_NF=self.x_NF[rows_M],
            missing_NF=None if self.missing_NF is None else self.missing_NF[rows_M],
            category_NC=self.category_NC[rows_M],
            y_N=self.y_N[rows_M],
            arrays={name: array[rows_M] for name, array in self.arrays.items()},
            timestamp_ms_N=self.timestamp_ms_N[rows_M],
        )


class RejectReason(Enum):
    """Why a record went to the dead letters. A bounded set: it becomes a metric label."""

    BAD_UTF8 = "bad_utf8"
    BAD_SYNTAX = "bad_syntax"
    WRONG_TYPE = "wrong_type"
    MISSING_FEATURE = "missing_feature"
    MISSING_TARGET = "missing_target"
    NOT_FINITE = "not_finite"
    TOO_LARGE_NUMBER = "too_large_number"
    UNKNOWN_CLASS = "unknown_class"
    OVERSIZE = "oversize"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One record that no model will see, with all that is needed to find it, understand it and send it again."""

    partition: TopicPartition
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes
    headers: Headers
    reason: RejectReason
    detail: str  # one line: which field, what was expected, what came


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Every record of a raw batch is in exactly one of the three: the batch, the rejects, the skipped."""

    batch: Batch
    rejects: tuple[Reject, ...]
    n_tombstones: int
