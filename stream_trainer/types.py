"""The words everybody shares: records, batches, positions, reports, state.

Shape suffixes: N = records in the batch, F = number features, C = category features, K = classes.
A position is always the *next* offset: the first one not yet covered. Columns, not objects per record: at 100,000
records a second a Python object each is what one can afford least. Knows nothing of Kafka, torch or files.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = [
    "Alarm",
    "Batch",
    "ClosedBy",
    "Counts",
    "Cut",
    "Decoded",
    "Detection",
    "Direction",
    "LayerPlasticity",
    "LearnReport",
    "ModelReport",
    "NormDrift",
    "Positions",
    "Prediction",
    "RaceArm",
    "RawBatch",
    "ReactionEvent",
    "ReactionKind",
    "RecordChunk",
    "Reject",
    "RejectReason",
    "Run",
    "Snapshot",
    "State",
    "StepReport",
    "TopicPartition",
    "Verdict",
]

Prediction: TypeAlias = np.ndarray
"""Classes: (N, K) float64 probabilities, rows sum to 1. Number: (N,) float64 values."""


class TopicPartition(NamedTuple):
    """One partition of one topic; of a file: its name and 0."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


Positions: TypeAlias = dict[TopicPartition, int]
"""Partition -> next offset."""

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]


# ---------------------------------------------------------------- raw: as the log holds them


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChunk:
    """Consecutive records of one partition, still bytes, as columns of equal length.

    May be empty and yet move the position: transaction markers and compacted records take offsets too.
    """

    partition: TopicPartition
    offsets: Sequence[int]
    timestamps_ms: Sequence[int]  # -1: none
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]  # None: a tombstone
    headers: Sequence[Headers]
    next_offset: int

    def __len__(self) -> int:
        return len(self.offsets)

    def split(self, n: int) -> tuple["RecordChunk", "RecordChunk"]:
        """The first `n` records, and the rest; 0 < n < len(self)."""
        cut = self.offsets[n - 1] + 1
        return self._slice(slice(None, n), cut), self._slice(slice(n, None), self.next_offset)

    def before(self, offset: int) -> "RecordChunk":
        """What of it lies before `offset`; perhaps nothing but the way there."""
        n = bisect_left(self.offsets, offset)
        if n == len(self) and self.next_offset <= offset:
            return self
        return self._slice(slice(None, n), offset)

    def _slice(self, part: slice, next_offset: int) -> "RecordChunk":
        return RecordChunk(
            partition=self.partition,
            offsets=self.offsets[part],
            timestamps_ms=self.timestamps_ms[part],
            keys=self.keys[part],
            values=self.values[part],
            headers=self.headers[part],
            next_offset=next_offset,
        )


class ClosedBy(Enum):
    """Why the batcher stopped waiting."""

    RECORDS = "records"
    BYTES = "bytes"
    AGE = "age"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBatch:
    """What the batcher cut: chunks in arrival order."""

    chunks: tuple[RecordChunk, ...]
    next_offsets: Positions  # of the partitions in this batch only
    closed_by: ClosedBy

    def __len__(self) -> int:
        return sum(map(len, self.chunks))


class Run(NamedTuple):
    """Offsets [first, next) of one partition, gaps included, that lie side by side in a batch."""

    partition: TopicPartition
    first_offset: int
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How one batch was cut: all that is needed to cut it again from the log, and nothing of its content."""

    step: int  # batches of the run so far, this one included
    runs: tuple[Run, ...]  # in arrival order; a partition may come several times
    n_records: int
    closed_by: ClosedBy


# ---------------------------------------------------------------- decoded: ready to learn from


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

    def rows(self, rows_M: "np.ndarray | slice") -> "Batch":
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


# ---------------------------------------------------------------- what came of it


class Direction(Enum):
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A detector's claim that the mean of its values changed."""

    index: int  # which value of the batch completed the evidence
    direction: Direction
    before: float  # mean before and after the estimated change
    after: float
    statistic: float  # what was compared, in the detector's own unit ...
    threshold: float  # ... with this
    window_records: int  # values the detector still believes in


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A detection with its address: which signal, of which model, layer or feature, at which record of the run."""

    signal: str
    model: str | None
    feature: str | None
    record: int  # records learned by then, this one included
    detection: Detection
    layer: str | None = None  # of the model's network


class Verdict(NamedTuple):
    """What came of one model's predictions of a batch, record by record: told once, for scores and signals alike."""

    error_N: np.ndarray  # float64: 1 wrong and 0 right, or the absolute error
    said_N: np.ndarray  # int64: the likeliest class, of equally likely ones the first; or float64: the number predicted
    doubt_N: np.ndarray | None  # float64: 1 - the largest probability; None: a number


class NormDrift(NamedTuple):
    """How far the activations of one normalisation layer have moved, in plain numbers."""

    distance: float  # recent against remembered: mean over channels of (shift / std)^2 + (log ratio of variances)^2 / 2
    usual: float | None  # what `distance` is while nothing drifts; None: the layer cannot tell
    clipped: float  # share of the channels that the limits of the layer cut in the last training batch
    fast_share: float | None  # of the fast moments in what normalises; None: the layer has one memory
    shift: float  # sqrt(m) d of a batch of m records, root mean square over channels: 1 at rest, whatever m
    scale: float  # r = std of the batch / std remembered, geometric mean over channels: 1 at rest, unless m is small

    @property
    def strain(self) -> float:
        """How many times further than usual, about 1 at rest: what is watched."""
        return self.shift**2 if self.usual is None else self.distance / self.usual


class LayerPlasticity(NamedTuple):
    """Signs that one layer stops learning; None: not a number of this kind of layer, or not measured yet."""

    weight_ratio: float | None = None  # length of its weights over what it was at the start
    update_ratio: float | None = None  # length of one step over that of the weights
    stable_rank: float | None = None  # of the weights: 1 to the smaller of their two widths
    dead: float | None = None  # share of units that answered no record of about a thousand
    dormant: float | None = None  # share of units with at most 2.5 % of the mean activity, the dead among them
    effective_rank: float | None = None  # of the activations: 1 to the number of units


class RaceArm(Enum):
    """Who may serve after a suspected drift. A bounded set: it becomes a metric label."""

    KEEP = "keep"  # the live model, as it is
    RATE_UP = "rate_up"  # a copy that learns with a multiple of its rate
    FRESH = "fresh"  # a newly built twin
    EARLIER_1 = "earlier_1"  # the model that served until the last confirmed drift, as it was then,
    EARLIER_2 = "earlier_2"  # ... until the drift before,
    EARLIER_3 = "earlier_3"  # ... and before that


class ReactionKind(Enum):
    SUSPECT = "suspect"  # challengers were set beside the live model
    CONFIRM = "confirm"  # one of them was better and has taken its place
    ROLLBACK = "rollback"  # none was: the live model stays
    BOOST = "boost"  # the live model learns faster for a while


@dataclass(frozen=True, slots=True, kw_only=True)
class ReactionEvent:
    """What was done about a drift of one model's errors. `arm` is the one that serves from here on."""

    model: str
    kind: ReactionKind
    record: int  # records of the run by then, this batch included
    arm: RaceArm
    challenger: RaceArm | None = None  # confirm, rollback: the best of them, and of it ...
    margin: float | None = None  # ... the share of the live model's loss that it saved; below 0: it was worse
    statistic: float | None = None  # ... the same in standard errors, from paired losses


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnReport:
    """What one `learn` did. `skipped` says why a step was not taken, for example "non_finite"; None: all were."""

    loss: float | None = None  # mean over the records, before each step; None: the model has none, or took no step
    gradient_norm: float | None = None
    learning_rate: float | None = None
    skipped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model on one batch."""

    learned: LearnReport
    error: float  # mean over the batch: share of wrong classes, or absolute error
    predict_s: float
    learn_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The run so far, over all restarts: consumed = learned + dead_lettered + skipped, always."""

    batches: int = 0
    consumed: int = 0
    learned: int = 0
    dead_lettered: int = 0
    skipped: int = 0  # tombstones


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one turn of the loop did, for metrics, views and logs."""

    batch_records: int  # records learned from: rejects and tombstones excluded
    batch_bytes: int
    closed_by: ClosedBy
    rejects: tuple[Reject, ...]
    n_tombstones: int
    next_offsets: Positions  # all partitions, after this batch
    timestamp_ms_N: np.ndarray  # of the records learned
    models: Mapping[str, ModelReport]
    alarms: tuple[Alarm, ...]
    counts: Counts  # after this batch
    events: tuple[ReactionEvent, ...] = ()


# ---------------------------------------------------------------- what survives


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The whole memory of one part, in forms that are safe to load.

    Arrays are copies: learning goes on while they are written. `pickles` is for objects that have no safe form
    (River); it is refused unless the operator trusts the directory.
    """

    arrays: Mapping[str, "np.ndarray | torch.Tensor"] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)  # JSON: str keys, numbers, strings, lists, None
    pickles: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def join(cls, parts: Mapping[str, "State"]) -> "State":
        """One state made of several, for a part that consists of parts; `part` takes them out again.

        >>> State.join({"a": State(values={"n": 1})}).part("a").values
        {'n': 1}
        """
        return cls(
            arrays={f"{name}/{key}": array for name, part in parts.items() for key, array in part.arrays.items()},
            values={name: dict(part.values) for name, part in parts.items()},
            pickles={f"{name}/{key}": blob for name, part in parts.items() for key, blob in part.pickles.items()},
        )

    def part(self, name: str) -> "State":
        """The state that was joined under `name`. Raises: KeyError if there is none."""
        own = f"{name}/"
        return State(
            arrays={key.removeprefix(own): array for key, array in self.arrays.items() if key.startswith(own)},
            values=self.values[name],
            pickles={key.removeprefix(own): blob for key, blob in self.pickles.items() if key.startswith(own)},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Positions and everything learned up to exactly there, one unit: neither is ever saved without the other."""

    positions: Positions
    counts: Counts
    parts: Mapping[str, State]  # "models/mlp", "scores", "drift", ...: who captured it restores it
    topic_ids: Mapping[str, str] = field(default_factory=dict)  # topic -> hexadecimal, of sources that know it
    unfinished: Sequence[Callable[[], None]] = ()  # copies of large arrays that are still to be made

    def finish(self) -> None:
        """Make every array whole, from any thread, before the first is read; costs nothing the second time."""
        for finish in self.unfinished:
            finish()
