"""What came of a batch: predictions, verdicts, alarms and what followed, reports and counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

import numpy as np

from stream_trainer.types.decoded import Reject
from stream_trainer.types.records import ClosedBy, Positions

__all__ = [
    "Alarm",
    "Counts",
    "Detection",
    "Direction",
    "LayerPlasticity",
    "LearnReport",
    "ModelReport",
    "NormDrift",
    "Prediction",
    "RaceArm",
    "ReactionEvent",
    "ReactionKind",
    "StepReport",
    "Verdict",
]

Prediction: TypeAlias = np.ndarray
"""Classes: (N, K) float64 probabilities, rows sum to 1. Number: (N,) float64 values."""


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
    NEW_INPUTS = "new_inputs"  # such a copy whose first layer begins anew: what the layers above know stays
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
    output_scale: float | None = None  # factor on the outputs from here on, see models/temperature.py
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
