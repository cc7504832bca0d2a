"""Everything that watches for drift in one run, looked at once per batch, between scoring and learning.

Detections are counted here, over all restarts: detectors forget theirs when they re-arm. What follows an alarm is not
decided here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from stream_trainer.contracts import Model, Stateful
from stream_trainer.drift import (
    build_confidence_signal,
    build_error_signal,
    build_feature_signal,
    build_norm_signal,
)
from stream_trainer.drift.mean_signals import ConfidenceSignal, ErrorSignal
from stream_trainer.drift.norm_signal import NormSignal
from stream_trainer.drift.restoring import part_of
from stream_trainer.drift.signals import FeatureRates, FeatureSignal, LabelSignal, PredictionSignal, Score
from stream_trainer.engine.reaction import REACTIONS, ReactionOptions
from stream_trainer.errors import ConfigError
from stream_trainer.schema import NumberFeature, Schema, Target
from stream_trainer.types import Alarm, Batch, NormDrift, State, Verdict

__all__ = ["DriftMonitor", "DriftOptions", "HasNorms"]

S = TypeVar("S")

Choice = str | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOptions:
    """What is watched, by what, and what follows. A choice is a name, or `{name: {option: value}}`."""

    error: Choice = "weighted_adwin"  # a detector on the errors of each model
    features: Choice = "psi"  # a distance of each feature's recent values from a frozen reference, or none
    predictions: bool = False  # shares of what each model predicts; needs no labels
    labels: bool = False  # shares of what is true
    confidence: Choice = "none"  # a detector, best own_past, on how unsure each model is of its classes; no labels
    norms: Choice = "none"  # strain: of each normalisation layer against what is usual for it; exported either way
    reaction: Choice = "alert"  # none: metrics only; alert: a line in the log too; boost, race: see reaction.py

    def __post_init__(self) -> None:
        """What cannot be built is refused now, not when the run starts."""
        target = Target.binary("any")
        self.error_signal("any", target)
        self.feature_signal(Schema(numbers=(NumberFeature(name="a number"),), target=target))
        self.confidence_signal("any", target)
        self.norm_signal("any")
        self.reaction_options()

    def error_signal(self, model: str, target: Target) -> ErrorSignal:
        name, options = _name_and_options("error", self.error)
        return build_error_signal(model, target, name, **options)

    def feature_signal(self, schema: Schema) -> FeatureSignal | None:
        """None: features are not watched."""
        name, options = _name_and_options("features", self.features)
        return None if name == "none" else build_feature_signal(schema, name, **options)

    def confidence_signal(self, model: str, target: Target) -> ConfidenceSignal | None:
        """None: confidence is not watched."""
        name, options = _name_and_options("confidence", self.confidence)
        return None if name == "none" else build_confidence_signal(model, target, name, **options)

    def norm_signal(self, model: str) -> NormSignal | None:
        """None: layers are not watched."""
        name, options = _name_and_options("norms", self.norms)
        if name not in ("none", "strain"):
            raise ConfigError(f"drift.norms is {name!r}; known: none, strain.")
        return None if name == "none" else build_norm_signal(model, **options)

    @property
    def reaction_policy(self) -> str:
        return _name_and_options("reaction", self.reaction)[0]

    def reaction_options(self) -> ReactionOptions | None:
        """None: alarms change no model."""
        name, options = _name_and_options("reaction", self.reaction)
        if name not in REACTIONS:
            raise ConfigError(f"drift.reaction is {name!r}; known: {', '.join(REACTIONS)}.")
        kind = REACTIONS[name]
        if kind is None:
            if options:
                raise ConfigError(f"drift.reaction.{name} has the options {options}; it takes none.")
            return None
        try:
            return kind(**options)
        except TypeError as error:
            raise ConfigError(f"drift.reaction.{name}: {error}") from error


@runtime_checkable
class HasNorms(Protocol):
    """A model whose normalisation layers can say how far they moved with the last batch it learned."""

    def norm_drift(self) -> Mapping[str, NormDrift]: ...


class DriftMonitor:
    """Turns what the trainer has into alarms, and remembers how many there were."""

    def __init__(self, options: DriftOptions, schema: Schema, models: Sequence[str]) -> None:
        target = schema.target
        self.alarms = 0  # over all restarts
        self._errors = {name: options.error_signal(name, target) for name in models}
        self._features = options.feature_signal(schema)
        self._predictions = {name: PredictionSignal(name, target) for name in models if options.predictions}
        self._labels = LabelSignal(target) if options.labels else None
        self._confidence = _chosen({name: options.confidence_signal(name, target) for name in models})
        self._norms = _chosen({name: options.norm_signal(name) for name in models})

    @property
    def signals(self) -> tuple[str, ...]:
        """Names that an alarm of this run may carry."""
        return tuple(dict.fromkeys(signal for signal, _, _ in self._parts()))

    def observe(self, batch: Batch, verdicts: Mapping[str, Verdict]) -> tuple[Alarm, ...]:
        """The alarms of one batch. `verdicts`: on the predictions of each model."""
        found = [alarm for model, signal in self._errors.items() for alarm in signal.update(verdicts[model].error_N)]
        if self._features:
            found += self._features.update(batch)
        for model, watched in self._predictions.items():
            found += watched.update(verdicts[model].said_N)
        for model, doubted in self._confidence.items():
            doubt_N = verdicts[model].doubt_N
            assert doubt_N is not None, "a target of numbers, refused by build_confidence_signal"
            found += doubted.update(doubt_N)
        if self._labels:
            found += self._labels.update(batch.y_N)
        self.alarms += len(found)
        return tuple(found)

    def look_inside(self, batch: Batch, models: Mapping[str, Model]) -> tuple[Alarm, ...]:
        """The alarms of the layers of `models`, which have just learned the batch; those without layers have none."""
        found: list[Alarm] = []
        for name, watched in self._norms.items():
            model = models[name]
            if isinstance(model, HasNorms):
                found += watched.update(len(batch), model.norm_drift)
        self.alarms += len(found)
        return tuple(found)

    def renew(self, model: str) -> None:
        """A drift of this model is confirmed: the world of the next records is what later ones are compared with.

        Only then. Under `alert` nothing confirms, and the references stay: a distance that a reader of last week's
        dashboard can compare with today's is worth more than a silence that nobody decided.
        """
        for signal in (self._features, self._labels, self._predictions.get(model)):
            if signal:
                signal.renew()

    def rates(self) -> dict[str, FeatureRates]:
        """Feature -> missing and unseen shares of its recent window; {} if features are not watched."""
        return self._features.rates() if self._features else {}

    def scores(self) -> dict[tuple[str, str, str], Score]:
        """(signal, model or "", feature or "") -> where it stands."""
        return {
            (signal, model, feature): score
            for signal, model, part in self._parts()
            for feature, score in part.scores().items()
        }

    def capture(self) -> State:
        parts = {f"{signal}.{model}": part.capture() for signal, model, part in self._parts()}
        return State.join({**parts, "own": State(values={"alarms": self.alarms})})

    def restore(self, state: State) -> None:
        self.alarms = part_of(state, "own").values["alarms"]
        for signal, model, part in self._parts():
            part.restore(part_of(state, f"{signal}.{model}"))

    def _parts(self) -> "list[tuple[str, str, _Signal]]":
        """(signal, model or "", part) of everything that watches."""
        parts: list[tuple[str, str, _Signal]] = [("error", model, part) for model, part in self._errors.items()]
        if self._features:
            parts.append(("feature", "", self._features))
        parts += [("prediction", model, part) for model, part in self._predictions.items()]
        if self._labels:
            parts.append(("label", "", self._labels))
        parts += [("confidence", model, part) for model, part in self._confidence.items()]
        parts += [("norm", model, part) for model, part in self._norms.items()]
        return parts


class _Signal(Stateful, Protocol):
    def scores(self) -> dict[str, Score]: ...


def _chosen(signals: Mapping[str, S | None]) -> dict[str, S]:
    return {model: signal for model, signal in signals.items() if signal is not None}


def _name_and_options(key: str, choice: Choice) -> tuple[str, dict[str, Any]]:
    if isinstance(choice, str):
        return choice, {}
    if len(choice) != 1:
        raise ConfigError(f"drift.{key} is {dict(choice)}; expected a name or {{name: {{options}}}}.")
    ((name, options),) = choice.items()
    return name, dict(options or {})
