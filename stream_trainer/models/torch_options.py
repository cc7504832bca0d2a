"""What a torch model is told, and the network that follows from it.

`net` names one of ours, `module` the user's own: an import path from the configuration is code that the operator chose.
"""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stream_trainer.errors import ConfigError
from stream_trainer.models.networks import build_network, refuse_batch_norm
from stream_trainer.norms import convert_norms
from stream_trainer.optimizers import RateScaling, headroom
from stream_trainer.schema import Schema

__all__ = ["TorchOptions", "build_configured"]

_NET_OPTIONS = (
    "hidden",
    "norm",
    "norm_options",
    "dropout",
    "embedding_dim",
    "channels",
    "blocks",
    "activation",
    "norm_in_cell",
)


@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """A network, how it learns, and its seed. What is None is left to the network's own default."""

    net: str | None = None  # a name in NETWORKS; None: mlp, or `module`
    hidden: tuple[int, ...] | None = None
    norm: str | None = None
    norm_options: Mapping[str, Any] | None = None
    dropout: float | None = None
    embedding_dim: int | None = None
    channels: tuple[int, ...] | None = None  # lenet, resnet_small
    blocks: int | None = None  # resnet_small
    activation: str | None = None  # lenet: relu or sigmoid
    norm_in_cell: str | None = None  # gru, lstm: none or layer

    module: str | None = None  # instead of `net`: "package.module:factory", called (widths, outputs, **module_options)
    module_options: Mapping[str, Any] = field(default_factory=dict)
    convert_norms: str | None = None  # exchange every BatchNorm of the module for this layer, weights kept

    optimizer: str | Mapping[str, Mapping[str, Any]] = "stream_adamw"  # name, or {name: {option: value}}
    lr_scaling: str | Mapping[str, Any] = "none"  # rule, or {rule: ..., reference_records: ...}
    gradient_norm_max: float | None = 10.0  # a mean over 16 has .1 to 3: this cuts accidents only. None: never
    step_records_max: int | None = 32  # a larger batch is learned in several steps. None: in one; faster, learns less
    calibrated: bool = True  # how sure it says it is follows how sure it was right to be; classes only
    seed: int = 0

    input_half_life_records: float = 10_000  # ten times the norms' slow memory: the two must not chase each other
    input_abs_max: float = 10.0  # standard deviations; a broken sensor says no more than "far out"

    def __post_init__(self) -> None:
        for name in ("gradient_norm_max", "input_abs_max", "input_half_life_records"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"torch.{name} is {value}; expected more than 0.")
        if self.step_records_max is not None and self.step_records_max < 1:
            raise ConfigError(f"torch.step_records_max is {self.step_records_max}; expected 1 or more, or null.")
        only_net = {name: getattr(self, name) for name in ("net", *_NET_OPTIONS) if getattr(self, name) is not None}
        if self.module is not None and only_net:
            raise ConfigError(f"torch: module is given, so {', '.join(only_net)} has no use; put it in module_options.")
        if self.module is None and (self.module_options or self.convert_norms is not None):
            raise ConfigError("torch: module_options and convert_norms are for a module of yours; set module, or norm.")
        if isinstance(self.optimizer, Mapping) and len(self.optimizer) != 1:
            raise ConfigError(f"torch.optimizer is {dict(self.optimizer)}; expected a name or {{name: {{options}}}}.")
        if isinstance(self.lr_scaling, Mapping) and not set(self.lr_scaling) <= {"rule", "reference_records"}:
            raise ConfigError(f"torch.lr_scaling is {dict(self.lr_scaling)}; known keys: rule, reference_records.")

    @property
    def optimizer_spec(self) -> tuple[str, Mapping[str, Any]]:
        """Name and options of the optimizer, however it was written."""
        if isinstance(self.optimizer, str):
            return self.optimizer, {}
        return next(iter(self.optimizer.items()))

    def gradient_limit(self, records: int) -> float:
        """Longest gradient that passes as it is. A mean over n < 16 records may be √(16/n) times as long: with one
        limit for all, one record in twenty of elec2 was cut, and always one that had been predicted wrongly."""
        limit = math.inf if self.gradient_norm_max is None else self.gradient_norm_max
        return limit * headroom(records)

    @property
    def rate_scaling(self) -> RateScaling:
        """The rule for the learning rate, however it was written."""
        return RateScaling(rule=self.lr_scaling) if isinstance(self.lr_scaling, str) else RateScaling(**self.lr_scaling)


def build_configured(schema: Schema, options: TorchOptions) -> nn.Module:
    """The network that the options ask for, for this schema; weights come from torch's current random state.

    Raises: ConfigError: it cannot be imported or built, or could not learn from a batch of one.
    """
    if options.module is not None:
        network = _call_factory(options.module, schema, options.module_options)
        if options.convert_norms is not None:
            damping = _damping_for(options.convert_norms, options)
            network = convert_norms(network, options.convert_norms, **damping)
    else:
        chosen = {name: getattr(options, name) for name in _NET_OPTIONS if getattr(options, name) is not None}
        damping = _damping_for(chosen.get("norm", "adaptive_batch_renorm"), options)
        if damping:
            chosen["norm_options"] = damping | dict(options.norm_options or {})
        if schema.categories and options.optimizer_spec[0] == "stream_adamw":
            chosen["sparse_embeddings"] = True  # it takes gradients by rows, and a step costs what the batch touches
        network = build_network(options.net or "mlp", schema.widths, schema.target.outputs, **chosen)
    refuse_batch_norm(network)
    _try(network, schema)
    return network


def _try(network: nn.Module, schema: Schema) -> None:
    """Ask it once about one record and about two, so that a mistake costs a second now and not a night later."""
    widths, outputs = schema.widths, schema.target.outputs
    network.eval()
    for n_records in (1, 2):
        inputs = [torch.zeros(n_records, widths.numbers)] if widths.numbers else []
        inputs += [torch.zeros(n_records, len(widths.categories), dtype=torch.int64)] if widths.categories else []
        inputs += [torch.zeros(n_records, *shape) for shape in widths.arrays]
        try:
            with torch.inference_mode():
                answer = network(*inputs)
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise ConfigError(
                f"torch: the network raised {type(error).__name__}: {error} when called with inputs of shape {shapes}. "
                "It is given the numbers, the categories and each array feature of the schema, as far as it has them."
            ) from error
        found = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        if found != (n_records, outputs):
            raise ConfigError(
                f"torch: the network returned {found} for {n_records} record(s); expected {(n_records, outputs)}: one "
                f"row per record, one column per class, or a single one for a number."
            )


def _damping_for(norm: str, options: TorchOptions) -> dict[str, Any]:
    """An optimizer that counts records needs no norm that counts them once more: of small batches little would stay."""
    damped = norm in ("adaptive_batch_renorm", "continual") and options.optimizer_spec[0] == "stream_adamw"
    return {"damping": "none"} if damped else {}


def _call_factory(path: str, schema: Schema, options: Mapping[str, Any]) -> nn.Module:
    module_name, _, factory_name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"torch.module is {path!r}; expected package.module:factory, and it cannot be imported: {error}."
        ) from error
    try:
        network = factory(schema.widths, schema.target.outputs, **options)
    except Exception as error:
        raise ConfigError(
            f"torch.module {path!r} raised {type(error).__name__}: {error}. It is called with the input widths, "
            f"{schema.target.outputs} outputs and the module_options {dict(options)}."
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"torch.module {path!r} returned a {type(network).__name__}; expected a torch.nn.Module.")
    return network
