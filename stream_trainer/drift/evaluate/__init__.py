"""How good is a detector? Streams with exactly known changes, controls without any, and a fair way of counting.

`streams` makes errors directly, `concepts` makes records whose concept changes, `tables` changes records of the user's
own, and a model that learns them turns both into errors; `judging` counts, `baselines` are the rows every table needs.
`stream-trainer drift-bench` runs all of it. No files, no clocks: what a detector costs is measured by who calls.
"""

from stream_trainer.drift.evaluate.baselines import EveryK, Oracle, WorseOnly
from stream_trainer.drift.evaluate.concepts import CONCEPTS, Concepts, piecewise
from stream_trainer.drift.evaluate.judging import Verdict, judge, pooled, told_at
from stream_trainer.drift.evaluate.streams import (
    Stream,
    autocorrelated_errors,
    errors_with_changes,
    losses_with_changes,
    seasonal_errors,
)
from stream_trainer.drift.evaluate.tables import INJECTIONS, Table, prequential_errors, shuffled

__all__ = [
    "CONCEPTS",
    "INJECTIONS",
    "Concepts",
    "EveryK",
    "Oracle",
    "Stream",
    "Table",
    "Verdict",
    "WorseOnly",
    "autocorrelated_errors",
    "errors_with_changes",
    "judge",
    "losses_with_changes",
    "piecewise",
    "pooled",
    "prequential_errors",
    "seasonal_errors",
    "shuffled",
    "told_at",
]
