"""What a River model is told, and the estimator that follows from it.

Import paths come from the configuration: they are code that the operator chose. Seeds and nominal attributes that were
not given are filled in; everything else has River's defaults.
"""

import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from river import base, compose

from stream_trainer.errors import ConfigError
from stream_trainer.schema import Schema, TargetKind

__all__ = ["RiverOptions", "build_estimator"]


@dataclass(frozen=True, kw_only=True)
class RiverOptions:
    """Which estimator, with which parameters; exactly one of `estimator` and `pipeline`.

    A parameter may itself be an object: {estimator: river.optim.SGD, parameters: {lr: 0.1}}. Steps of a pipeline are
    import paths or such mappings.
    """

    estimator: str | None = None  # import path, for example river.tree.HoeffdingAdaptiveTreeClassifier
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pipeline: Sequence[str | Mapping[str, Any]] = ()
    inputs: str = "raw"  # "standardised": numbers and arrays as the networks get them
    categories: str = "bucket"  # "one_hot": a key of its own with the value 1, for models that want numbers
    input_half_life_records: float = 10_000  # as in TorchOptions
    input_abs_max: float = 10.0
    seed: int = 0  # for every part that takes a `seed` and was given none, so that runs repeat

    def __post_init__(self) -> None:
        if (self.estimator is None) == (not self.pipeline):
            raise ConfigError("river: expected either estimator or pipeline, an import path or a list of them.")
        if self.pipeline and self.parameters:
            raise ConfigError("river.parameters belongs to river.estimator; give each pipeline step its own.")
        if self.inputs not in ("raw", "standardised"):
            raise ConfigError(f"river.inputs is {self.inputs!r}; known inputs: raw, standardised.")
        if self.categories not in ("bucket", "one_hot"):
            raise ConfigError(f"river.categories is {self.categories!r}; known forms: bucket, one_hot.")


def build_estimator(schema: Schema, options: RiverOptions) -> Any:
    """The estimator or pipeline that the options ask for.

    Raises: ConfigError: a path that cannot be imported, parameters that do not fit, or the wrong kind of task.
    """
    builder = _Builder(schema, options.seed)
    if options.estimator is not None:
        estimator = builder.build(options.estimator, options.parameters, where="river")
    else:
        steps = [builder.value(step, f"river.pipeline[{i}]") for i, step in enumerate(options.pipeline)]
        estimator = compose.Pipeline(*steps)
    _check_task(estimator, schema)
    return estimator


class _Builder:
    """Turns import paths and parameters into objects, filling in seeds and nominal attributes."""

    def __init__(self, schema: Schema, seed: int) -> None:
        self._nominal = [feature.name for feature in schema.categories]
        self._seed = seed

    def build(self, path: str, parameters: Mapping[str, Any], where: str) -> Any:
        kind = _import(path, f"{where}.estimator")
        given = {
            name: self.value(value, f"{where}.parameters.{name}") if isinstance(value, Mapping) else value
            for name, value in parameters.items()
        }
        try:
            known = inspect.signature(kind).parameters
            if "seed" in known:
                given.setdefault("seed", self._seed)
            if "nominal_attributes" in known and self._nominal:
                given.setdefault("nominal_attributes", list(self._nominal))
            return kind(**given)
        except Exception as error:
            raise ConfigError(f"{where}: {path} cannot be built with {given}: {error}.") from error

    def value(self, spec: Any, where: str) -> Any:
        """A step or a parameter: an import path in a step, a nested object, or a plain mapping as it is."""
        if isinstance(spec, str):
            return self.build(spec, {}, where)
        if "estimator" not in spec:
            return spec
        unknown = set(spec) - {"estimator", "parameters"}
        if unknown:
            raise ConfigError(f"{where}: unknown key {sorted(unknown)[0]!r}; known keys: estimator, parameters.")
        return self.build(spec["estimator"], spec.get("parameters") or {}, where)


def _import(path: str, where: str) -> Any:
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ConfigError(f"{where} is {path!r}; expected an import path like river.tree.HoeffdingTreeClassifier.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{where} is {path!r}: tried to import {module_name}: {error}.") from error
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, [n for n in dir(module) if n[0] != "_"], n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"{where} is {path!r}: {module_name} was imported and has no {name}.{hint}")
    return getattr(module, name)


def _check_task(estimator: Any, schema: Schema) -> None:
    last = list(estimator.steps.values())[-1] if isinstance(estimator, compose.Pipeline) else estimator
    name, target = type(last).__name__, schema.target
    if target.kind is TargetKind.NUMBER:
        if not isinstance(last, base.Regressor):
            raise ConfigError(f"river: target {target.name!r} is a number and needs a regressor; {name} is none.")
        return
    if not isinstance(last, base.Classifier):
        raise ConfigError(f"river: target {target.name!r} has classes and needs a classifier; {name} is none.")
    n_classes = len(target.classes)
    if n_classes > 2 and not last._multiclass:
        raise ConfigError(
            f"river: {name} tells two classes apart; target {target.name!r} has {n_classes}. "
            "Wrap it: estimator: river.multiclass.OneVsRestClassifier, parameters: {classifier: {estimator: ...}}."
        )
