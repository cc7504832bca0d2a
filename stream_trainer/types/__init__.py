"""The words everybody shares: records, batches, positions, reports, state.

Shape suffixes: N = records in the batch, F = number features, C = category features, K = classes.
A position is always the *next* offset: the first one not yet covered. Columns, not objects per record: at 100,000
records a second a Python object each is what one can afford least. Knows nothing of Kafka, torch or files.
"""

from stream_trainer.types.decoded import Batch, Decoded, Reject, RejectReason
from stream_trainer.types.outcomes import (
    Alarm,
    Counts,
    Detection,
    Direction,
    LayerPlasticity,
    LearnReport,
    ModelReport,
    NormDrift,
    Prediction,
    RaceArm,
    ReactionEvent,
    ReactionKind,
    StepReport,
    Verdict,
)
from stream_trainer.types.records import ClosedBy, Cut, Headers, Positions, RawBatch, RecordChunk, Run, TopicPartition
from stream_trainer.types.state import Snapshot, State

__all__ = [
    "Alarm",
    "Batch",
    "ClosedBy",
    "Counts",
    "Cut",
    "Decoded",
    "Detection",
    "Direction",
    "Headers",
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
