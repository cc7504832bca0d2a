"""What every normalisation layer has: a width, a number of dims, an affine part, and clear words for a wrong shape.

Shape suffixes as in moments.py: N = records, C = features (channels), P = positions of one record.
"""

import torch
from torch import Tensor, nn

from stream_trainer.errors import ConfigError, ShapeError
from stream_trainer.norms.precision import WideModule, in_float32
from stream_trainer.types import NormDrift

__all__ = ["VALUE_MAX", "Norm", "NormDrift", "StatefulNorm", "usable_records", "weighted_moments"]

VALUE_MAX = 1e15  # squares of more, a thousand added up, are no number in float32

_SHAPES = {1: "(N, {c}) or (N, {c}, L)", 2: "(N, {c}, H, W)", 3: "(N, {c}, D, H, W)"}


class Norm(WideModule):
    """Base of all layers here.

    Input and output: (N, C) or (N, C, L) for dims 1, (N, C, H, W) for dims 2, (N, C, D, H, W) for dims 3.

    `weight` and `bias` are (C,), or None without `affine`; their names are torch's, so that state dicts exchange.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, num_features: int, *, dims: int = 1, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        name = type(self).__name__
        if num_features < 1:
            raise ConfigError(f"{name}: num_features is {num_features}; expected 1 or more.")
        if dims not in _SHAPES:
            raise ConfigError(f"{name}: dims is {dims!r}; expected 1 (dense, sequences), 2 (images) or 3 (volumes).")
        if not eps > 0:
            raise ConfigError(f"{name}: eps is {eps}; expected a number above 0, for example 1e-5.")
        self.num_features, self.dims, self.eps = num_features, dims, eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise in float32 or wider, autocast or not; the output has the dtype of the input."""
        self.check(x)
        return in_float32(self.normalise, x)

    def normalise(self, x: Tensor) -> Tensor:
        """The layer itself, on an x of the right shape, in float32 or float64."""
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Raises ShapeError unless x has the dims and features that this layer was built for."""
        dim_fits = x.dim() in (2, 3) if self.dims == 1 else x.dim() == self.dims + 2
        if not dim_fits or x.shape[1] != self.num_features:
            expected = _SHAPES[self.dims].format(c=self.num_features)
            fix = (
                f"Build the layer with num_features={x.shape[1]}, or move the features to axis 1."
                if dim_fits
                else "Build the layer with dims=1 for (N, C) and (N, C, L), 2 for images, 3 for volumes."
            )
            raise ShapeError(f"{type(self).__name__} expected input {expected}, got {tuple(x.shape)}. {fix}")

    def affine_part(self) -> tuple[Tensor | None, Tensor | None]:
        """weight and bias, as quickly as they can be had: nn.Module's own look-up takes a microsecond for each."""
        try:
            return self._parameters["weight"], self._parameters["bias"]
        except KeyError:  # None, or a parametrisation that computes them
            return self.weight, self.bias

    def check_values(self, x: Tensor, values: int, minimum: int, fix: str) -> None:
        """Raises ShapeError if a statistic over so few values of a record would erase the record."""
        if values < minimum:
            raise ShapeError(
                f"{type(self).__name__} normalises over {values} value(s) of a record of shape {tuple(x.shape[1:])}; "
                f"expected at least {minimum}. {fix}"
            )

    def per_channel(self, x: Tensor, values_C: Tensor) -> Tensor:
        """(C,) as a view that broadcasts against x."""
        return values_C.view(1, -1, *[1] * (x.dim() - 2))

    def affine(self, xhat: Tensor) -> Tensor:
        """weight * xhat + bias."""
        if self.weight is None or self.bias is None:
            return xhat
        return torch.addcmul(self.per_channel(xhat, self.bias), self.per_channel(xhat, self.weight), xhat)

    def extra_repr(self) -> str:
        affine = "" if self.weight is not None else ", affine=False"
        return f"{self.num_features}, dims={self.dims}, eps={self.eps:g}{affine}"


def usable_records(x: Tensor) -> Tensor:
    """(N,) bool: every value of the record is a number, and so are sums of its square.

    >>> usable_records(torch.tensor([[1.0, 2.0], [1.0, torch.nan], [1e20, 0.0]])).tolist()
    [True, False, False]
    """
    return (x.flatten(1).abs() <= VALUE_MAX).all(1)


def weighted_moments(x: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, each record counting `weight_N` times; differentiable.

    >>> weighted_moments(torch.tensor([[1.0], [5.0], [9.0]]), torch.tensor([3.0, 1.0, 0.0]))
    (tensor([2.]), tensor([3.]))
    """
    view = (-1, *[1] * (x.dim() - 1))
    share = (weight_N / weight_N.sum()).view(view) / x[0, 0].numel()
    x = x.masked_fill(weight_N.view(view) == 0, 0)  # what does not count may hold anything, and 0 * nan is nan
    axes = (0, *range(2, x.dim()))
    mean_B = (share * x).sum(axes)
    return mean_B, (share * (x - mean_B.view(1, -1, *view[2:])).square()).sum(axes)


class StatefulNorm(Norm):
    """A layer that remembers moments. `frozen` stops them in train mode too (see maintenance.freeze)."""

    frozen = False
    records_refused = 0  # learned by no moment because a value was no number, or beyond VALUE_MAX; since it was built
    moments_of_input = True  # False: of the input after a normalisation per record, see moments_input

    @property
    def learning(self) -> bool:
        """Whether this forward pass may move the moments."""
        return self.training and not self.frozen

    def normalise(self, x: Tensor) -> Tensor:
        # An empty batch takes the inference path in training too: nothing to learn, and nothing moves.
        return self.normalise_batch(x) if self.training and len(x) else self.normalise_inference(x)

    def normalise_batch(self, x: Tensor) -> Tensor:
        """Training: N >= 1."""
        raise NotImplementedError

    def normalise_inference(self, x: Tensor) -> Tensor:
        """Each record by what is remembered; changes nothing."""
        raise NotImplementedError

    def forward(self, x: Tensor, record_weight_N: Tensor | None = None) -> Tensor:
        """Normalise a batch; in training, move the moments once.

        Args:    x: as the base class says. record_weight_N: (N,) of numbers >= 0: how often each record counts in
                 every statistic; 0 for padding, whose own output is still computed. Slower: no fused kernel. The loss
                 is the caller's: a record that counts twice there too has twice the gradient. In eval it changes
                 nothing.
        Returns: like x.
        Raises:  ShapeError: wrong dims, features or weights. ConfigError: a weight that is no number, or below 0.
        """
        if record_weight_N is None or not self.training or len(x) == 0:
            return super().forward(x)
        self.check(x)
        self.check_weights(x, record_weight_N)
        if not bool(record_weight_N.any()):  # as an empty batch: nothing to learn, and nothing moves
            return in_float32(self.normalise_inference, x)
        return in_float32(lambda wide_x: self.normalise_weighted(wide_x, record_weight_N.to(wide_x)), x)

    def check_weights(self, x: Tensor, record_weight_N: Tensor) -> None:
        """Raises ShapeError or ConfigError unless there is one weight for each record, a number, 0 or more."""
        if record_weight_N.shape != x.shape[:1]:
            raise ShapeError(f"record_weight_N has shape {tuple(record_weight_N.shape)}; expected ({len(x)},).")
        wrong_N = ~((record_weight_N >= 0) & (record_weight_N < torch.inf))
        if bool(wrong_N.any()):
            record = int(wrong_N.int().argmax())
            raise ConfigError(
                f"record_weight_N[{record}] is {float(record_weight_N[record])}; expected a number of 0 or more. "
                "Take 0 for a record that shall not count."
            )

    def normalise_weighted(self, x: Tensor, weight_N: Tensor) -> Tensor:
        """Training: N >= 1, records that count `weight_N` times each, like x; at least one does count."""
        raise NotImplementedError

    def learn_usable(self, u: Tensor, weight_N: Tensor | None = None) -> None:
        """Instead of a batch whose moments are no numbers: its usable records move the memory, the others are counted.

        Its outputs stay what they are: whoever looks at the loss must see them. The memory outlives the batch, so one
        broken record must not be its end.
        """
        usable_N = usable_records(u)
        weight_N = u.new_ones(len(u)) if weight_N is None else weight_N
        self.records_refused += int((~usable_N & (weight_N > 0)).sum())
        self.learn_weighted(u, weight_N.masked_fill(~usable_N, 0))

    def learn_weighted(self, u: Tensor, weight_N: Tensor) -> None:
        """Move the moments by u, `moments_input` of a batch, each record counting `weight_N` times."""
        raise NotImplementedError

    def moments_input(self, x: Tensor) -> Tensor:
        """What the moments are taken of: x itself, or x after a normalisation of each record."""
        return x

    def set_moments(self, mean_C: Tensor, var_C: Tensor, n_records: int) -> None:
        """Take over moments that were measured elsewhere, as if `n_records` had been seen."""
        raise NotImplementedError

    def drift(self) -> NormDrift | None:
        """Cheap: a few sums over channels, computed when asked. None: before the first batch, or it cannot tell."""
        return None
