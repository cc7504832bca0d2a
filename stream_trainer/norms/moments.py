"""Running mean and variance whose memory is counted in records: the same records give the same moments, however cut.

Shape suffixes: N = records in the batch, C = features (channels), P = positions of one record (1 in dense layers, H*W
of an image). Record i of n weighs q^(n-1-i) in arrival order, its positions share that weight, and the whole memory
before the batch is multiplied by q^n: merging a batch is then exactly n merges of one record. A plain batch mean is
not: for a memory of 64 records it is .15 standard deviations off at n = 64.

Not here: the weights of records (decay.py), merging over workers (sync.py), what the moments are for (every layer).
Source of the merge: Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983.
"""

import math

import torch
from torch import Tensor

from stream_trainer.errors import ConfigError, ShapeError
from stream_trainer.norms.decay import decay_of_batch, decay_of_weighted, mass_of
from stream_trainer.norms.precision import WideModule

__all__ = ["RunningMoments", "merge_moments_", "record_moments"]


def record_moments(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and biased variance of each record and channel over its positions; no variance where P = 1.

    Args:    x: (N, C) or (N, C, *positions).
    Returns: mean_NC, var_NC or None.
    """
    if x.dim() == 2:
        return x, None
    axes = tuple(range(2, x.dim()))
    mean = x.mean(axes, keepdim=True)
    # The norm squared in place of var(): four times faster on a CPU, and as exact, the mean being taken off first.
    scatter_NC = torch.linalg.vector_norm(x - mean, dim=axes).square_()
    return mean.flatten(1), scatter_NC.div_(x[0, 0].numel())


def merge_moments_(
    mean: Tensor, var: Tensor, weight: Tensor, *, step: Tensor, batch_var: Tensor, mass: Tensor, kept: Tensor
) -> None:
    """Move (mean, var, weight) in place by a batch whose mean lies `step` above `mean`. All shapes broadcast.

    w = mass / (kept * weight + mass) corrects for the start of the memory by itself: the first batch has w = 1.
    """
    weight.mul_(kept).add_(mass)
    w = (mass / weight).to(mean.dtype)
    moved = w * step
    mean.add_(moved)
    var.lerp_(batch_var, w).addcmul_(moved, step - moved)  # w(1-w) step^2: the variance between


class RunningMoments(WideModule):
    """Mean and variance per feature of all records seen, older ones counting less: exact for any cut into batches.

    Buffers: mean (C,), var (C,), both float32 or wider; n_records (), int64, records seen; weight () or (C,), float64,
    the sum of what all past records weigh now. `half_life_records` may be changed at any time; None never forgets.
    `prior_records` records at mean 0, variance 1 are remembered from before the start (for inputs that are normalised
    already); without them var is 1 and mean 0 only until the first record.

    With `per_value`, each feature keeps its own clock and a missing value changes nothing of its feature.

    >>> whole, cut = (RunningMoments(1, half_life_records=2.0) for _ in range(2))
    >>> x_NC = torch.tensor([[1.0], [5.0], [3.0]])
    >>> whole.update(x_NC)
    >>> for record in x_NC.split(1): cut.update(record)
    >>> torch.allclose(whole.var, cut.var), int(cut.n_records)
    (True, 3)
    """

    exact = ("weight",)
    mean: Tensor
    var: Tensor
    weight: Tensor
    n_records: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        half_life_records: float | None,
        prior_records: int = 0,
        per_value: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if half_life_records is not None and not half_life_records > 0:
            raise ConfigError(
                f"half_life_records is {half_life_records}; expected a number above 0, or None: for ever."
            )
        self.num_features, self.half_life_records = num_features, half_life_records
        self.prior_records, self.per_value = prior_records, per_value
        self.register_buffer("mean", torch.zeros(num_features, dtype=dtype))
        self.register_buffer("var", torch.ones(num_features, dtype=dtype))
        self.register_buffer("weight", torch.zeros(num_features if per_value else (), dtype=torch.float64))
        self.register_buffer("n_records", torch.zeros((), dtype=torch.int64))
        self.forget()

    def forget(self) -> None:
        """Back to the start: nothing seen."""
        self.mean.zero_()
        self.var.fill_(1)
        self.n_records.zero_()
        self.weight.fill_(self._mass(self.prior_records))

    def _mass(self, n_records: float) -> float:
        """What the first `n_records` records weigh once the last of them has come."""
        return mass_of(n_records, self.half_life_records)

    @torch.no_grad()
    def set(self, mean_C: Tensor, var_C: Tensor, n_records: int) -> None:
        """Take over moments measured elsewhere, over `n_records`; `n_records` never falls, schedules hang on it."""
        n_records = max(n_records, int(self.n_records))
        self.mean.copy_(mean_C)
        self.var.copy_(var_C)
        self.n_records.fill_(n_records)
        self.weight.fill_(self._mass(n_records))

    @torch.no_grad()
    def update(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Learn a batch in arrival order.

        A record of weight 2 counts exactly as that record twice, one of weight 0 as never seen.

        Args:    x: (N, C) or (N, C, *positions) floating; N = 0 changes nothing.
                 weight: None, (N,) of any numbers >= 0 or, if `per_value`, (N, C): False or 0 where a value is missing.
        Raises:  ShapeError: C is not `num_features`, or the weights do not fit x.
        """
        n = x.shape[0]
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ShapeError(
                f"moments of {self.num_features} features got {tuple(x.shape)}; "
                f"expected (N, {self.num_features}) or (N, {self.num_features}, *positions)."
            )
        if n == 0:
            return
        if torch.is_autocast_enabled(x.device.type):  # it would take the matrix products in bfloat16
            with torch.autocast(x.device.type, enabled=False):
                self.update(x, weight)
            return
        x = x.to(self.mean.dtype)
        if weight is None and not self.per_value:
            self.learn(x)
        else:
            self._learn_weighted(x, x.new_ones(n) if weight is None else weight)

    @torch.no_grad()
    def merge(self, mean_C: Tensor, var_C: Tensor, n: float, n_records: int | None = None) -> None:
        """Learn records of which only the decay-weighted moments are known (the shares of decay.py): they count n > 0
        times in all, and are `n_records`, or n if that is left out."""
        mass, kept = self._mass(n), 2.0 ** (-n / (self.half_life_records or math.inf))
        weight_new = float(self.weight) * kept + mass
        w = mass / weight_new
        step = mean_C - self.mean
        self.n_records.add_(int(n) if n_records is None else n_records)
        self.weight.fill_(weight_new)
        self.mean.add_(step, alpha=w)
        self.var.lerp_(var_C, w).addcmul_(step, step, value=w * (1 - w))

    def learn(self, x: Tensor) -> None:
        """`update` as layers call it: x checked, not empty, in the dtype of the moments; autograd and autocast off."""
        mean_NC, var_NC = record_moments(x)
        mean, var, weight = self.mean, self.var, self.weight
        # The weight is read on the host: free on a CPU, one wait a batch elsewhere. In exchange w is a Python number,
        # and the merge a handful of operations; on (64, 256) their number is all it costs.
        share_N, mass, kept = decay_of_batch(len(mean_NC), self.half_life_records, mean)
        weight_new = float(weight) * kept + mass
        w = mass / weight_new
        # Off the running mean first: a long constant stream then has step 0 and variance 0, whatever its level.
        centred_NC = mean_NC - mean
        step = share_N @ centred_NC
        # About the new mean, old and new records alike: var <- (1 - w)(var + w^2 step^2) + w sum share (x - mean_new)^2
        scatter_NC = centred_NC.sub_(step, alpha=w).square_()
        if var_NC is not None:
            scatter_NC += var_NC
        self.n_records.add_(len(mean_NC))
        weight.fill_(weight_new)
        mean.add_(step, alpha=w)
        var.addcmul_(step, step, value=w * w).addmv_(scatter_NC.t(), share_N, beta=1 - w, alpha=w)

    def _learn_weighted(self, x: Tensor, weight: Tensor) -> None:
        mean_NC, var_NC = record_moments(x)
        allowed = [mean_NC.shape[:1], *([mean_NC.shape] if self.per_value else [])]
        if weight.shape not in allowed:
            expected = " or ".join(str(tuple(shape)) for shape in allowed)
            hint = "" if self.per_value else " For weights of single values build the moments with per_value=True."
            raise ShapeError(f"weights have shape {tuple(weight.shape)}; expected {expected}.{hint}")
        share, mass, kept = decay_of_weighted(weight.double(), self.half_life_records)
        if weight.dim() == 1:
            share, mass = share[:, None], mass.expand(1) if self.per_value else mass
        share = share.to(self.mean.dtype)
        # A missing value may hold anything, a nan too: 0 * nan would poison the feature for ever.
        centred_NC = (mean_NC - self.mean).masked_fill(share == 0, 0)
        step = (share * centred_NC).sum(0)
        scatter_NC = (centred_NC - step).square_()
        if var_NC is not None:
            scatter_NC += var_NC.masked_fill(share == 0, 0)
        self.n_records.add_((weight > 0).reshape(len(weight), -1).any(1).sum())
        batch_var = (share * scatter_NC).sum(0)
        # A feature without any value: w = 0, and 0/0 only before its first value ever.
        nothing = (self.weight == 0) & (mass == 0)
        merge_moments_(self.mean, self.var, self.weight, step=step, batch_var=batch_var, mass=mass, kept=kept)
        self.mean.masked_fill_(nothing, 0)
        self.var.masked_fill_(nothing, 1)

    def extra_repr(self) -> str:
        return f"{self.num_features}, half_life_records={self.half_life_records}, prior_records={self.prior_records}"
