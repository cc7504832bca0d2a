"""Which series are there before the first batch: a rate over a series that appears with its first event misses it.

Every combination of labels that a run may show; what is not announced is dropped and counted (series.py).
"""

from collections.abc import Sequence
from itertools import product

from stream_trainer.telemetry import names
from stream_trainer.telemetry.series import SeriesStore
from stream_trainer.types import ClosedBy, Direction, RaceArm, ReactionKind, RejectReason

__all__ = ["ROLES", "STATES", "announce"]

_OUTCOMES = (  # who may serve after which event: only these have a series
    (ReactionKind.SUSPECT, RaceArm.KEEP),
    (ReactionKind.CONFIRM, RaceArm.RATE_UP),
    (ReactionKind.CONFIRM, RaceArm.NEW_INPUTS),
    (ReactionKind.CONFIRM, RaceArm.FRESH),
    (ReactionKind.CONFIRM, RaceArm.EARLIER_1),
    (ReactionKind.CONFIRM, RaceArm.EARLIER_2),
    (ReactionKind.CONFIRM, RaceArm.EARLIER_3),
    (ReactionKind.ROLLBACK, RaceArm.KEEP),
    (ReactionKind.BOOST, RaceArm.RATE_UP),
)
ROLES = ("member", "active", "standby")
STATES = ("STARTING", "RUNNING", "PAUSED", "DRAINING", "STOPPED", "FAILED")


def announce(series: SeriesStore, models: Sequence[str], features: Sequence[str], signals: Sequence[str]) -> None:
    """Counters at 0, room for gauges; the names are those of the configuration."""
    reserve = series.announce
    each_model = [(model,) for model in models]
    each_direction = [direction.value for direction in Direction]
    for family in (
        names.LEARNED,
        names.SKIPPED,
        names.BYTES,
        names.REBUILDS,
        names.SOURCE_ERRORS,
        names.REBALANCES,
        names.FENCES,
        names.LOST_DATA,
        names.CORRUPT_FETCHES,
        names.CORRUPT,
        names.DROPPED,
    ):
        reserve(family, [()])
    reserve(names.DEAD_LETTERED, [(reason.value,) for reason in RejectReason])
    reserve(names.BATCHES, [(closed_by.value,) for closed_by in ClosedBy])
    reserve(names.CHECKPOINTS, [("saved",), ("failed",)])
    reserve(names.GROUP_ROLE, [(role,) for role in ROLES])
    reserve(names.LIFECYCLE, [(state,) for state in STATES])
    for family in (
        names.PREDICT_SECONDS,
        names.LEARN_SECONDS,
        names.ERROR,
        names.NONFINITE,
        names.REFUSED,
        names.LOSS,
        names.GRADIENT_NORM,
        names.LEARNING_RATE,
        names.OUTPUT_SCALE,
        names.RACE_ACTIVE,
        names.FRESH_MARGIN,
    ):
        reserve(family, each_model)
    reserve(names.REACTIONS, [(model, kind.value, arm.value) for model in models for kind, arm in _OUTCOMES])
    reserve(names.LAST_REACTION, product(models, [kind.value for kind in ReactionKind]))
    reserve(names.EVENTS, [("delivered",), ("lost",)])
    reserve(names.DETECTIONS, product(signals, ("", *models), each_direction))
    reserve(names.LAST_DETECTION, [(signal,) for signal in signals])
    for family in (names.DRIFT_SCORE, names.DRIFT_THRESHOLD):
        reserve(family, product(signals, ("", *models), ("", *features)))
