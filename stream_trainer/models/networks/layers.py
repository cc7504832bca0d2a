"""Linear or convolution, then norm, then activation: the group of three that all networks are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from stream_trainer.errors import ConfigError
from stream_trainer.norms import build_norm, standardise_weights
from stream_trainer.norms.base import Norm

__all__ = ["ACTIVATIONS", "NEED_POSITIONS", "Normalised"]

ACTIVATIONS: Mapping[str, type[nn.Module]] = MappingProxyType({"relu": nn.ReLU, "sigmoid": nn.Sigmoid})
"""Name in the configuration -> module."""

NEED_POSITIONS = frozenset({"instance", "frn", "evonorm_s0"})  # they normalise over the positions of one record
OWN_ACTIVATION = frozenset({"frn", "evonorm_s0"})


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """The norm and the activation that follow each layer of a network.

    Not every norm is free to stand everywhere. `instance`, `frn` and `evonorm_s0` need positions: dense layers go
    without a norm then. `frn` and `evonorm_s0` bring their own activation: none follows. `group_ws` wants the weights
    of the layer below standardised: they are.

    >>> Normalised(norm="frn").conv(3, 8, size=3)
    [Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), bias=False), FilterResponseNorm(8, dims=2, eps=1e-06)]
    """

    norm: str
    options: Mapping[str, Any] | None = None
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            raise ConfigError(f"activation is {self.activation!r}; known activations: {known}.")

    def dense(self, inputs: int, outputs: int) -> list[nn.Module]:
        """A Linear with what follows it, on (N, C)."""
        norm = build_norm("none", outputs) if self.norm in NEED_POSITIONS else self.build(outputs, dims=1)
        return [self.lower(nn.Linear(inputs, outputs, bias=not _shifts(norm))), norm, ACTIVATIONS[self.activation]()]

    def head(self, inputs: int, hidden: Sequence[int], outputs: int, *, dropout: float) -> nn.Sequential:
        """Dense layers of these widths, each with what follows it and a dropout, if any; then the outputs."""
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [*self.dense(inputs, width), *([nn.Dropout(dropout)] if dropout else [])]
            inputs = width
        return nn.Sequential(*layers, nn.Linear(inputs, outputs))

    def conv(self, inputs: int, outputs: int, *, size: int, padding: int = 0) -> list[nn.Module]:
        """A convolution with what follows it, on (N, C, H, W)."""
        norm, *active = self.follow(outputs)
        return [self.lower(nn.Conv2d(inputs, outputs, size, padding=padding, bias=not _shifts(norm))), norm, *active]

    def follow(self, width: int) -> list[nn.Module]:
        """What follows a convolution of `width` channels: the norm, then the activation, if it has none of its own."""
        norm = self.build(width, dims=2)
        return [norm] if self.norm in OWN_ACTIVATION else [norm, ACTIVATIONS[self.activation]()]

    def build(self, width: int, *, dims: int) -> Norm:
        """The norm alone."""
        return build_norm(self.norm, width, dims=dims, **(self.options or {}))

    def lower(self, layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
        """A layer that such a norm comes after, made ready for it."""
        return standardise_weights(layer) if self.norm == "group_ws" else layer


def _shifts(norm: nn.Module) -> bool:
    """A norm takes every constant away: where it has a shift of its own, a bias below it would be dead weight."""
    return any(name == "bias" for name, _ in norm.named_parameters())
