"""Group normalisation after a layer whose weights are standardised: the batch-independent pair for convolutions.

    w = (v - mean(v)) / (std(v) + eps) per output channel, over all inputs of that channel

The standardisation belongs to the layer before the norm, and a norm does not see what comes before it. So it is
attached there, as a torch parametrisation: `standardise_weights(conv)` when one builds a network, while
`convert_norms(net, "group_ws")` does it for the layer before each converted norm. Optimisers and state dicts hold v.

Source: Qiao, Wang, Liu, Shen, Yuille, "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization", 2019, arXiv:1903.10520.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stream_trainer.errors import ConfigError
from stream_trainer.norms.per_record import GroupNorm

__all__ = ["GroupNormWS", "is_standardised", "standardise_weights"]

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Layer = TypeVar("Layer", bound=nn.Module)


class GroupNormWS(GroupNorm):
    """GroupNorm whose preceding layer must be given standardised weights, see the module's text.

    A batch of one gives gradient to lower layers.

    >>> net = nn.Sequential(standardise_weights(nn.Conv2d(3, 8, 3)), GroupNormWS(8, dims=2))
    >>> round(net[0].weight[0].mean().abs().item(), 5), list(net.state_dict())[1]
    (0.0, '0.parametrizations.weight.original')
    """


class _Standardised(nn.Module):
    """The parametrisation: rows of the weight to mean 0 and standard deviation 1."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        rows = rows - rows.mean(1, keepdim=True)
        std = torch.linalg.vector_norm(rows, dim=1, keepdim=True) / rows.shape[1] ** 0.5
        return (rows / (std + self.eps)).view_as(weight)


def standardise_weights(layer: Layer, *, eps: float = 1e-5) -> Layer:
    """Attach weight standardisation to a Linear or Conv layer, in place; twice is once. Returns the layer.

    Raises: ConfigError: another kind of layer, or one input per output channel, which would leave only zeros.
    """
    if not isinstance(layer, WEIGHTED):
        raise ConfigError(
            f"weight standardisation is for {', '.join(kind.__name__ for kind in WEIGHTED)}; "
            f"got {type(layer).__name__}. Use norm `group` there."
        )
    if layer.weight[0].numel() < 2:
        raise ConfigError(
            f"weight standardisation of {layer} needs 2 or more inputs per output channel, got 1. "
            "Use norm `group` there."
        )
    if not is_standardised(layer):
        parametrize.register_parametrization(layer, "weight", _Standardised(eps))
    return layer


def is_standardised(layer: nn.Module) -> bool:
    """Whether `standardise_weights` was here.

    >>> is_standardised(nn.Linear(4, 2)), is_standardised(standardise_weights(nn.Linear(4, 2)))
    (False, True)
    """
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    return any(isinstance(step, _Standardised) for step in layer.parametrizations["weight"])  # type: ignore[index]
