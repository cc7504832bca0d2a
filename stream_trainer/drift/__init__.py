"""Seeing that the world has moved: detectors over a stream of values, and signals made from what the trainer has.

`DETECTORS` is the list one can choose from; `build_detector` makes one from the options of the configuration. The
detectors know neither models nor records: they are given numbers in arrival order and say where the mean changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from stream_trainer.contracts import DriftDetector
from stream_trainer.drift.adwin import WeightedAdwin
from stream_trainer.drift.cusum import BatchCusum
from stream_trainer.drift.histogram_options import HistogramOptions
from stream_trainer.drift.kernel import drift_kernel
from stream_trainer.drift.mean_signals import ConfidenceSignal, ErrorSignal
from stream_trainer.drift.norm_signal import NormSignal, NormSignalOptions
from stream_trainer.drift.own_past import OwnPast
from stream_trainer.drift.restoring import identity, refuse_stranger
from stream_trainer.drift.river_detectors import (
    RiverAdwin,
    RiverDdm,
    RiverHddmA,
    RiverHddmW,
    RiverKswin,
    RiverPageHinkley,
)
from stream_trainer.drift.signals import FeatureSignal, LabelSignal, PredictionSignal
from stream_trainer.errors import ConfigError
from stream_trainer.schema import Schema, Target, TargetKind
from stream_trainer.types import Detection, State

__all__ = [
    "DETECTORS",
    "ConfidenceSignal",
    "ErrorSignal",
    "FeatureSignal",
    "HistogramOptions",
    "LabelSignal",
    "NoDetector",
    "NormSignal",
    "PredictionSignal",
    "build_confidence_signal",
    "build_detector",
    "build_error_signal",
    "build_feature_signal",
    "build_norm_signal",
    "drift_kernel",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoDetectorOptions:
    """Nothing to choose."""


class NoDetector:
    """Never fires: for `drift: {error: none}`, and the first row of every comparison."""

    options_type: ClassVar[type] = NoDetectorOptions

    def __init__(self, options: NoDetectorOptions | None = None) -> None:
        self.options = options or NoDetectorOptions()

    def update(self, values_N: np.ndarray) -> Sequence[Detection]:
        return ()

    def capture(self) -> State:
        return State(values=identity("none", self.options))

    def restore(self, state: State) -> None:
        refuse_stranger(state, identity("none", self.options))


DETECTORS: dict[str, Any] = {
    "adwin": RiverAdwin,
    "cusum": BatchCusum,
    "ddm": RiverDdm,
    "hddm_a": RiverHddmA,
    "hddm_w": RiverHddmW,
    "kswin": RiverKswin,
    "none": NoDetector,
    "own_past": OwnPast,
    "page_hinkley": RiverPageHinkley,
    "weighted_adwin": WeightedAdwin,
}
"""Name in the configuration -> class. Each has `options_type`, a dataclass with the reason for each default."""


def build_detector(name: str, **options: object) -> DriftDetector:
    """A fresh detector by its name in the configuration.

    Raises: ConfigError: unknown name or option, answered with the known ones.

    >>> build_detector("adwin", delta=0.01).options.delta
    0.01
    >>> build_detector("adwim")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    stream_trainer.errors.ConfigError: drift detector is 'adwim'; known detectors: adwin, ..., weighted_adwin.
    """
    if name not in DETECTORS:
        raise ConfigError(f"drift detector is {name!r}; known detectors: {', '.join(sorted(DETECTORS))}.")
    detector_type = DETECTORS[name]
    detector: DriftDetector = detector_type(_options(f"detector {name}", detector_type.options_type, options))
    return detector


def build_error_signal(model: str, target: Target, name: str = "weighted_adwin", **options: object) -> ErrorSignal:
    """The signal over the errors of one model, with a detector by its name.

    Errors of a number have no largest value: there `weighted_adwin` takes its range from the stream, unless told.

    >>> target = Target(name="delay", kind=TargetKind.NUMBER)
    >>> build_error_signal("tree", target).detector.options.value_max is None
    True
    """
    if target.kind is TargetKind.NUMBER and name == "weighted_adwin":
        options = {"value_max": None, **options}
    return ErrorSignal(model, build_detector(name, **options))


def build_confidence_signal(
    model: str, target: Target, name: str = "weighted_adwin", **options: object
) -> ConfidenceSignal:
    """The signal over how sure one model is of its classes, with a detector by its name.

    Raises: ConfigError: the target is a number, of which nobody is more or less sure; or as `build_detector`.
    """
    if target.kind is not TargetKind.CLASSES:
        raise ConfigError(
            f"drift.confidence is {name}, but target {target.name!r} is a number: its predictions carry no "
            "probability. Set drift.confidence to none, or drift.predictions to true."
        )
    return ConfidenceSignal(model, build_detector(name, **options))


def build_norm_signal(model: str, **options: object) -> NormSignal:
    """The signal over the normalisation layers of one model, by the fields of NormSignalOptions."""
    return NormSignal(model, _options("norms", NormSignalOptions, options))


def build_feature_signal(schema: Schema, distance: str = "psi", **options: object) -> FeatureSignal:
    """The signal over the columns of `schema`, by the distance that it watches and the fields of HistogramOptions.

    Raises: ConfigError: unknown distance or option, answered with the known ones.
    """
    return FeatureSignal(schema, _options("features", HistogramOptions, {"distance": distance, **options}))


def _options(owner: str, options_type: type, options: Mapping[str, object]) -> Any:
    known = [field.name for field in fields(options_type)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"drift {owner}: unknown option {', '.join(unknown)}; known options: {', '.join(known) or 'none'}."
        )
    return options_type(**options)
