"""Two memories of the same activations, a slow and a fast one, updated together, and the distance between them.

H = horizons, 0 slow and 1 fast; other suffixes as in moments.py, whose merge this is, exact for any cut of the stream.
One matrix product serves both horizons and the plain batch moments: the layer above is called for every batch, and at
64 records of 256 features it is the number of operations that costs, not their size.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from stream_trainer.errors import ConfigError
from stream_trainer.norms.decay import decay_of_batch, decay_of_weighted, mass_of
from stream_trainer.norms.moments import merge_moments_, record_moments
from stream_trainer.norms.precision import WideModule

__all__ = ["BatchMoments", "TwoHorizonMoments"]

PRIOR_RECORDS = 8  # remembered at (0, 1) from before the start: true on average of activations normalised per record


class BatchMoments(NamedTuple):
    """One batch, measured before it is merged."""

    step_HC: Tensor  # decay-weighted mean of the batch minus the running mean
    var_HC: Tensor  # decay-weighted variance about that mean
    mean_C: Tensor  # every record alike
    var_C: Tensor


class TwoHorizonMoments(WideModule):
    """Buffers: mean, var (2, C); weight (2, 1) float64, what all past records weigh now; n_records () int64."""

    exact = ("weight",)
    mean: Tensor
    var: Tensor
    weight: Tensor
    n_records: Tensor

    def __init__(self, num_features: int, *, half_life_records_slow: float, half_life_records_fast: float) -> None:
        super().__init__()
        if not 0 < half_life_records_fast < half_life_records_slow:
            raise ConfigError(
                f"half_life_records_fast is {half_life_records_fast}, half_life_records_slow {half_life_records_slow}; "
                "expected 0 < fast < slow."
            )
        self.half_lives = (half_life_records_slow, half_life_records_fast)
        self.register_buffer("mean", torch.zeros(2, num_features))
        self.register_buffer("var", torch.ones(2, num_features))
        self.register_buffer("weight", torch.zeros(2, 1, dtype=torch.float64))
        self.register_buffer("n_records", torch.zeros((), dtype=torch.int64))
        self._weigh(PRIOR_RECORDS)
        self.noise = _noise_distance(*self.half_lives)

    def _weigh(self, n_records: int) -> None:
        for weight, half_life in zip(self.weight, self.half_lives, strict=True):
            weight.fill_(mass_of(n_records, half_life))

    def set(self, mean_C: Tensor, var_C: Tensor, n_records: int) -> None:
        """Both horizons take over moments measured elsewhere."""
        n_records = max(n_records, int(self.n_records))
        self.mean.copy_(mean_C)
        self.var.copy_(var_C)
        self.n_records.fill_(n_records)
        self._weigh(n_records + PRIOR_RECORDS)

    def decays(self, n: int, like: Tensor) -> "Decays":
        """What a batch of n records does to both memories."""
        return _decays(n, *self.half_lives, like.dtype, like.device)

    def decays_weighted(self, weight_N: Tensor) -> "Decays":
        """As `decays`, for records that count `weight_N` times each: 0 is not there, 2 is there twice."""
        weight_N = weight_N.double()
        parts = [decay_of_weighted(weight_N, half_life) for half_life in (*self.half_lives, None)]
        share, mass, kept = (torch.stack(of_horizons) for of_horizons in zip(*parts, strict=True))
        mass, kept = mass[:2].view(2, 1), kept[:2].view(2, 1)
        return Decays(share.to(self.mean.dtype), mass, kept, (), (), weight_N > 0)

    def measure(self, u: Tensor, decay: "Decays") -> BatchMoments:
        """The moments of a batch of N >= 1 records; changes nothing."""
        mean_NC, var_NC = record_moments(u)
        if decay.there_N is not None:  # what is not there may hold anything, and 0 * nan is nan
            absent_N1 = ~decay.there_N.view(-1, 1)
            mean_NC = mean_NC.masked_fill(absent_N1, 0)
            var_NC = None if var_NC is None else var_NC.masked_fill(absent_N1, 0)
        share_3N = decay.share_3N
        mean = share_3N @ mean_NC
        mean_fast = mean[1]
        scatter_NC = (mean_NC - mean_fast).square_()
        if var_NC is not None:
            scatter_NC += var_NC
        # About the fast mean for all three. Exact for the fast horizon; the slow one, whose weights are nowhere below
        # fast/slow of the fast ones, loses slow/fast = 16 roundings to the correction at most.
        offset = mean - mean_fast
        var = (share_3N @ scatter_NC).addcmul_(offset, offset, value=-1).clamp_min_(0)
        return BatchMoments(mean[:2] - self.mean, var[:2], mean[2], var[2])

    def merge(self, batch: BatchMoments, decay: "Decays") -> None:
        """Learn what was measured, in place."""
        self.n_records.add_(decay.share_3N.shape[1] if decay.there_N is None else decay.there_N.sum())
        merge_moments_(
            self.mean,
            self.var,
            self.weight,
            step=batch.step_HC,
            batch_var=batch.var_HC,
            mass=decay.mass,
            kept=decay.kept,
        )

    def distance(self, eps: float) -> float:
        """How far fast and slow moments are apart, mean over channels, noise included: about `noise` at rest."""
        slow, fast = (self.var + eps).unbind()
        mean_slow, mean_fast = self.mean.unbind()
        gap, spread = mean_fast - mean_slow, (fast / slow).log_()
        return (float(torch.dot(gap / slow, gap)) + float(torch.dot(spread, spread)) / 2) / len(gap) + self.noise


class Decays(NamedTuple):
    """What a batch of n records does to both memories; the fields as in decay.py's Decay, slow before fast."""

    share_3N: Tensor  # slow, fast, and every record alike
    mass: Tensor  # (2, 1) float64
    kept: Tensor
    masses: tuple[float, ...]  # the same once more, for the compiled kernel, which takes no weights
    kepts: tuple[float, ...]
    there_N: Tensor | None = None  # of weighted records: whether they count at all


@lru_cache(maxsize=1024)
def _decays(n: int, half_life_slow: float, half_life_fast: float, dtype: torch.dtype, device: torch.device) -> Decays:
    like = torch.empty(0, dtype=dtype, device=device)
    slow, fast, alike = (decay_of_batch(n, half_life, like) for half_life in (half_life_slow, half_life_fast, None))
    with torch.inference_mode(False):
        pairs = ((slow.mass, fast.mass), (slow.kept, fast.kept))
        mass, kept = (torch.tensor(pair, dtype=torch.float64, device=device).view(2, 1) for pair in pairs)
        return Decays(torch.stack([slow.share_N, fast.share_N, alike.share_N]), mass, kept, *pairs)


def _noise_distance(half_life_slow: float, half_life_fast: float) -> float:
    """Expected distance of the two horizons on a stream that does not drift: twice the variance of the mean's gap."""
    a, b = (-math.expm1(-math.log(2) / half_life) for half_life in (half_life_fast, half_life_slow))
    return 2 * (a / (2 - a) + b / (2 - b) - 2 * a * b / (a + b - a * b))
