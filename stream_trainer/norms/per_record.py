"""Layers that normalise each record by itself: no memory, no difference between training and inference.

A batch of one is like any other, gradient included, and how a stream is cut cannot matter. What they lack is a view of
the stream: the mean of a feature over records goes through, and they do not see drift.

C = channels, P = positions; "all values" of a record are its C*P. Each class names its source.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_trainer.errors import ConfigError
from stream_trainer.norms.base import Norm

__all__ = ["GroupNorm", "InstanceNorm", "LayerNorm", "NoNorm", "RMSNorm", "group_count"]


def group_count(num_features: int) -> int:
    """Largest G <= 32 that divides the channels and leaves each group four or more; else 1.

    32 is the paper's best; below four channels a group in a dense layer is little more than the signs of its values.

    >>> [group_count(channels) for channels in (3, 8, 30, 64, 256)]
    [1, 2, 6, 16, 32]
    """
    groups = min(32, num_features // 4)
    while groups > 1 and num_features % groups:
        groups -= 1
    return max(1, groups)


class NoNorm(Norm):
    """The baseline: returns its input, and checks its shape like every other layer."""

    def __init__(self, num_features: int, *, dims: int = 1) -> None:
        super().__init__(num_features, dims=dims, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return x

    def extra_repr(self) -> str:
        return f"{self.num_features}, dims={self.dims}"


class GroupNorm(Norm):
    """y = (x - mean) / sqrt(var + eps), both over one group of channels of one record and all its positions.

    `groups` None takes `group_count`. A batch of one gives gradient to lower layers.
    Raises ShapeError where a group holds one value only: the output would be the bias, whatever the input.
    Source: Wu, He, "Group Normalization", 2018, arXiv:1803.08494.

    >>> GroupNorm(8, dims=2)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 8, 5, 5])
    """

    def __init__(
        self, num_features: int, *, dims: int = 1, groups: int | None = None, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__(num_features, dims=dims, eps=eps, affine=affine)
        self.groups = group_count(num_features) if groups is None else groups
        if self.groups < 1 or num_features % self.groups:
            raise ConfigError(
                f"{type(self).__name__}: {num_features} channels cannot be cut into {self.groups} equal groups. "
                "Take a divisor of the channels, or leave `groups` out."
            )

    def normalise(self, x: Tensor) -> Tensor:
        values = x.shape[1:].numel() // self.groups
        self.check_values(
            x, values, 2, "Use fewer groups, more channels, or `adaptive_batch_renorm` (per_record: none)."
        )
        if x.dim() == 2:  # same numbers, in a third of the time of a group norm without positions
            return self._normalise_dense(x)
        # torch.group_norm, not F.group_norm: that one judges the size of a group by the whole batch.
        return torch.group_norm(x, self.groups, self.weight, self.bias, self.eps)

    def _normalise_dense(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return F.layer_norm(x, x.shape[1:], self.weight, self.bias, self.eps)
        y = F.layer_norm(x.unflatten(1, (self.groups, -1)), (x.shape[1] // self.groups,), eps=self.eps).flatten(1)
        return self.affine(y)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


class LayerNorm(GroupNorm):
    """Group normalisation with one group: over all values of the record; weight and bias are per channel.

    On (N, C) this is torch.nn.LayerNorm(C). A batch of one gives gradient to lower layers.
    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
    """

    def __init__(self, num_features: int, *, dims: int = 1, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(num_features, dims=dims, groups=1, eps=eps, affine=affine)


class InstanceNorm(GroupNorm):
    """Group normalisation with one channel a group: over the positions of each channel of each record.

    Needs positions: refused on (N, C). A batch of one gives gradient to lower layers.
    Source: Ulyanov, Vedaldi, Lempitsky, "Instance Normalization", 2016, arXiv:1607.08022.
    """

    def __init__(self, num_features: int, *, dims: int = 1, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(num_features, dims=dims, groups=num_features, eps=eps, affine=affine)


class RMSNorm(Norm):
    """y = x / sqrt(mean(x^2) + eps) * weight over all values of the record; no centring and no bias.

    On (N, C) this is torch.nn.RMSNorm(C). A batch of one gives gradient to lower layers.
    Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.
    """

    def __init__(self, num_features: int, *, dims: int = 1, eps: float = 1e-6, affine: bool = True) -> None:
        super().__init__(num_features, dims=dims, eps=eps, affine=affine)
        self.bias = None

    def normalise(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return F.rms_norm(x, x.shape[1:], self.weight, self.eps)
        y = F.rms_norm(x, x.shape[1:], None, self.eps)
        return y if self.weight is None else y * self.per_channel(x, self.weight)
