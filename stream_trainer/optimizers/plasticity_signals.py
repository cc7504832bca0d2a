"""Can this network still learn? What its weights and its activations say, one number per layer.

Legend: N = records (or records times positions), U = units of a layer, W = its weights, one row per unit.
No single number foretells the loss of plasticity (arXiv:2509.19698): without a norm units die, under LayerNorm the rank
falls, under BatchNorm only the weights grow. So there are five, cheap enough to be watched side by side.
Refused: a verdict. Only a race against a newly built network gives one (its fresh margin).
Sources: dormant units: Sokar et al. 2023, arXiv:2302.12902; effective rank: Roy and Vetterli 2007.
"""

import math

import torch
from torch import Tensor

__all__ = ["DORMANT_BELOW", "dead_share", "dormant_share", "effective_rank", "stable_rank", "update_ratio"]

DORMANT_BELOW = 0.025  # of the mean activity of its layer; the value of the paper
POWER_STEPS = 8  # on a random matrix, the worst case, the rank comes out some 10 % too high; the trend is what counts


def dead_share(activity_U: Tensor) -> float:
    """Share of units that never answered: of `activity_U`, (U,), the mean |activation|, over a thousand records or so.

    >>> dead_share(torch.tensor([0.0, 0.01, 1.0, 1.0]))
    0.25
    """
    return float((activity_U == 0).double().mean())


def dormant_share(activity_U: Tensor) -> float:
    """Share of units with at most 2.5 % of the mean activity of their layer, the dead among them; 1 if none is active.

    >>> dormant_share(torch.tensor([0.0, 0.01, 1.0, 1.0]))
    0.5
    """
    return float((activity_U <= DORMANT_BELOW * activity_U.mean()).double().mean())


def update_ratio(before: Tensor, after: Tensor) -> float:
    """Length of a step over length of the weights that it changed; 0 where both are 0.

    >>> update_ratio(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.5]]))
    0.1
    """
    moved, length = (after - before).norm().item(), before.norm().item()
    return moved / length if length else math.inf if moved else 0.0


def stable_rank(weight: Tensor) -> float:
    """Squared Frobenius norm over squared largest singular value: how many directions carry the weights, at least 1.

    Of W with any number of dimensions, (U, ...); NaN if it is 0 or not finite. The singular value comes from a few
    power steps that begin at the longest row, so the rank is never too low.

    >>> round(stable_rank(torch.eye(5)), 3), round(stable_rank(torch.ones(5, 3)), 3)
    (5.0, 1.0)
    """
    rows_UF = weight.flatten(start_dim=1)
    direction_F = rows_UF[rows_UF.norm(dim=1).argmax()]
    for _ in range(POWER_STEPS):
        direction_F = rows_UF.T @ (rows_UF @ (direction_F / direction_F.norm()))
    largest = rows_UF @ (direction_F / direction_F.norm())
    return float(rows_UF.square().sum() / largest.square().sum())


def effective_rank(activations_NU: Tensor) -> float:
    """exp of the entropy of the singular values, each as a share of their sum: 1 to min(N, U); 0 if all are 0.

    >>> round(effective_rank(torch.eye(4)), 3), round(effective_rank(torch.ones(6, 4)), 3)
    (4.0, 1.0)
    """
    values = torch.linalg.svdvals(activations_NU)
    total = values.sum()
    if not total > 0:
        return 0.0
    return math.exp(torch.special.entr(values / total).sum().item())
