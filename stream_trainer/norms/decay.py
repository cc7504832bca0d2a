"""What each record of a batch weighs in a memory that forgets by records.

Record i of n weighs q^(n-1-i), in arrival order, and all that was remembered before is multiplied by q^n.
A memory is named by its half-life h in records: q = 2^(-1/h). Papers and torch speak of a weight a of the newest value
(q = 1 - a), or of a time constant 1/a: `half_life_of(time_constant_records=1024)` is 709.4, of 64 is 44.0.

N = records in the batch, C = features.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Decay", "decay_of_batch", "decay_of_weighted", "half_life_of", "mass_of"]


def half_life_of(*, time_constant_records: float) -> float:
    """Half-life of the memory q = 1 - 1/time_constant, both in records.

    >>> round(half_life_of(time_constant_records=1024), 1), round(half_life_of(time_constant_records=64), 1)
    (709.4, 44.0)
    """
    return -math.log(2) / math.log1p(-1 / time_constant_records)


class Decay(NamedTuple):
    """What a batch of n records does to a memory: see `decay_of_batch`."""

    share_N: Tensor  # weight of each record inside the batch, newest heaviest, sums to 1
    mass: float  # weight of the batch as a whole: 1 + q + ... + q^(n-1)
    kept: float  # what remains of every older weight: q^n


def mass_of(n: float, half_life_records: float | None) -> float:
    """1 + q + ... + q^(n-1). In double by expm1: 1 - q^n cancels in float32 as soon as the half-life is long.

    >>> mass_of(2, 1.0), mass_of(3, None)
    (1.5, 3.0)
    """
    if half_life_records is None:
        return float(n)
    log_q = -math.log(2) / half_life_records
    return math.expm1(n * log_q) / math.expm1(log_q)


def decay_of_batch(n: int, half_life_records: float | None, like: Tensor) -> Decay:
    """Weights of a batch of n >= 1 records; None forgets nothing. Cached by n: a stream sees few different sizes.

    >>> share_N, mass, kept = decay_of_batch(2, 1.0, torch.zeros(1))
    >>> share_N.tolist(), mass, kept
    ([0.3333333432674408, 0.6666666865348816], 1.5, 0.25)
    """
    build = _decay_of_batch.__wrapped__ if torch.compiler.is_compiling() else _decay_of_batch
    return build(n, half_life_records, like.dtype, like.device)


@lru_cache(maxsize=1024)
def _decay_of_batch(n: int, half_life_records: float | None, dtype: torch.dtype, device: torch.device) -> Decay:
    log_q = -math.log(2) / (half_life_records or math.inf)
    mass = mass_of(n, half_life_records)
    share_N = torch.exp(log_q * torch.arange(n - 1, -1, -1, dtype=torch.float64)) / mass
    with torch.inference_mode(False):  # the cache outlives the mode of whoever asks first
        return Decay(share_N.to(device, dtype, copy=True), mass, math.exp(n * log_q))


def decay_of_weighted(weight: Tensor, half_life_records: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """As `decay_of_batch`, for records that count `weight` times each: (share like weight, mass, kept) in float64."""
    total = weight.sum(0)
    if half_life_records is None:
        part, kept = weight, torch.ones_like(total)
    else:
        log_q = -math.log(2) / half_life_records
        newer = total - weight.cumsum(0)
        part = torch.exp(log_q * newer) * torch.expm1(log_q * weight) / math.expm1(log_q)
        kept = torch.exp(log_q * total)
    mass = part.sum(0)
    return torch.where(mass > 0, part / mass, 0.0), mass, kept
