"""The step of StreamAdamW for dense tensors by torch's operations, where the kernel is not there or cannot.

The formulas are in stream_adamw.py; here they are in the order in which `step` of _kernel.c has them.
"""

import math

import torch
from torch import Tensor

from stream_trainer.optimizers.records import cut

__all__ = ["step_in_torch"]


def step_in_torch(
    parameters: list[Tensor],
    gradients: list[Tensor],
    squares: list[Tensor],
    initials: list[Tensor | None],
    means: list[Tensor | None],
    previous: list[Tensor | None],
    unbiased: list[float],
    mean_factors: list[float],
    pulls: list[float],
    decay: float,
    gain: float,
    rate: float,
    limit: float,
    eps: float,
    smallest: float,
    flush: bool,
    mean_decay: float,
    share: float,
) -> tuple[float, float, float]:
    """What `step` of the kernel does, argument by argument. Returns: sums of u p, u u and p p, for mean_share.py."""
    torch._foreach_mul_(squares, decay)
    torch._foreach_addcmul_(squares, gradients, gradients, (1 - decay) * gain)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, [eps * factor for factor in unbiased])
    updates = list(torch._foreach_div(gradients, roots))
    norms = torch.stack(torch._foreach_norm(updates)).tolist()  # the one wait
    factors = [math.sqrt(gain) * factor for factor in unbiased]
    sizes = [math.sqrt(update.numel()) for update in updates]
    cuts = [cut(factor * norm / size, limit) for factor, norm, size in zip(factors, norms, sizes)]
    torch._foreach_mul_(updates, cuts)
    products = _products(updates, previous)
    remembered = [mean for mean in means if mean is not None]
    if remembered:
        torch._foreach_lerp_(remembered, torch._foreach_mul(gradients, cuts), 1 - mean_decay)
        of_means = torch._foreach_div(torch._foreach_mul(remembered, mean_factors), roots)
        torch._foreach_lerp_(updates, of_means, share)
    torch._foreach_mul_(updates, [-rate * factor for factor in factors])
    torch._foreach_add_(parameters, updates)
    pulled = [(p, initial, pull) for p, initial, pull in zip(parameters, initials, pulls) if initial is not None]
    if pulled:
        torch._foreach_lerp_(*map(list, zip(*pulled)))
    if flush:
        for moment in (*squares, *remembered):
            moment.masked_fill_(moment.abs() < smallest, 0.0)
    return products


def _products(updates: list[Tensor], previous: list[Tensor | None]) -> tuple[float, float, float]:
    """Sums of u p, u u and p p over the remembered part of each update; p becomes u."""
    products = torch.zeros(3, dtype=torch.float64)
    for update, before in zip(updates, previous):
        if before is not None:
            u, p = update.flatten()[: len(before)].double(), before.double()
            products += torch.stack([u @ p, u @ u, p @ p]).cpu()
            before.copy_(u)
    across, own, of_previous = products.tolist()
    return across, own, of_previous
