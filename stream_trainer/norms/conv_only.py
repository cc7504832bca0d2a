"""Two layers for images that normalise without centring, each with its own non-linearity: use no activation after them.

Per record, no memory, no batch: a batch of one is like any other and gives gradient to lower layers. C = channels,
P = positions of a record.
"""

import torch
from torch import Tensor, nn

from stream_trainer.errors import ConfigError
from stream_trainer.norms.base import Norm
from stream_trainer.norms.per_record import group_count

__all__ = ["EvoNormS0", "FilterResponseNorm"]

POSITIONS_MIN = 4  # fewer, and x / sqrt(mean(x^2)) is hardly more than the sign of x


class FilterResponseNorm(Norm):
    """y = max(weight * x / sqrt(mean_P(x^2) + |eps|) + bias, tau): each channel of a record by its power, then a
    threshold tau that is learned per channel in the place of an activation.

    Refused below 4 positions unless `learn_eps`, which learns one eps per channel (from 1e-4) and makes it defined.
    Source: Singh, Krishnan, "Filter Response Normalization Layer", 2019, arXiv:1911.09737.

    >>> FilterResponseNorm(3, dims=2)(torch.ones(1, 3, 2, 2)).flatten()[0].item()
    0.9999995231628418
    """

    def __init__(self, num_features: int, *, dims: int = 1, eps: float = 1e-6, learn_eps: bool = False) -> None:
        super().__init__(num_features, dims=dims, eps=eps)
        self.tau = nn.Parameter(torch.zeros(num_features))
        self.eps_learned = nn.Parameter(torch.full((num_features,), 1e-4)) if learn_eps else None

    def normalise(self, x: Tensor) -> Tensor:
        axes, positions = tuple(range(2, x.dim())), x.shape[2:].numel()
        if self.eps_learned is None:
            self.check_values(x, positions, POSITIONS_MIN, "Use learn_eps=True, or norm `layer` or `group`.")
            eps: Tensor | float = self.eps
        else:
            eps = self.per_channel(x, self.eps_learned.abs()) + self.eps
        power = x.square().mean(axes, keepdim=True) if axes else x.square()
        return torch.maximum(self.affine(x * (power + eps).rsqrt()), self.per_channel(x, self.tau))


class EvoNormS0(Norm):
    """y = weight * x sigmoid(v x) / sqrt(var_group(x) + eps) + bias, v learned per channel: norm and activation in one.

    Refused below 4 positions. `groups` None takes `group_count`.
    Source: Liu, Brock, Simonyan, Le, "Evolving Normalization-Activation Layers", 2020, arXiv:2004.02967.

    >>> EvoNormS0(8, dims=2)(torch.zeros(1, 8, 2, 2)).shape
    torch.Size([1, 8, 2, 2])
    """

    def __init__(self, num_features: int, *, dims: int = 1, groups: int | None = None, eps: float = 1e-5) -> None:
        super().__init__(num_features, dims=dims, eps=eps)
        self.groups = group_count(num_features) if groups is None else groups
        if self.groups < 1 or num_features % self.groups:
            raise ConfigError(
                f"evonorm_s0: {num_features} channels cannot be cut into {self.groups} equal groups. "
                "Take a divisor of the channels, or leave `groups` out."
            )
        self.v = nn.Parameter(torch.ones(num_features))

    def normalise(self, x: Tensor) -> Tensor:
        self.check_values(x, x.shape[2:].numel(), POSITIONS_MIN, "Use norm `group` or `layer`.")
        per_group = x.shape[1] // self.groups
        grouped = x.reshape(x.shape[0], self.groups, per_group * x.shape[2:].numel())
        var = (grouped - grouped.mean(2, keepdim=True)).square().mean(2).repeat_interleave(per_group, 1)
        inverse_std = (var + self.eps).rsqrt().view(*var.shape, *[1] * (x.dim() - 2))
        return self.affine(x * torch.sigmoid(self.per_channel(x, self.v) * x) * inverse_std)
