"""How much of a step is the mean gradient: much where records come shuffled, nothing where they come in runs.

A mean over some 150 records takes noise out of a step. Where a stream comes in runs (of a class, of a day) the last
mean says what the last run was, and the next batch is of another: there the mean ruins what it helps elsewhere. Which
of the two it is, the updates say themselves: of noise around a minimum each undoes a little of the one before, in a run
each repeats it.

    c = running cosine of an update and the one before, over AGREEMENT_RECORDS       w = .5 - 5 c, between 0 and 1

Measured against w = 0 in tests/benchmarks (stationary_*.md, one_setting_*.md, plasticity_race_*.md).
Not here: the mean itself and the step (stream_adamw.py).
"""

import math
from typing import Any

__all__ = ["SAMPLED", "hear_agreement", "share_of_mean"]

AGREEMENT_RECORDS = 2_000  # memory of the cosine
TRUSTED = 0.2  # share of that memory which has to be filled before the cosine means anything
SLOPE = 5.0  # at a cosine of .1 nothing of the mean is left, at -.1 it is all
SAMPLED = 4_096  # values of each tensor, its first, that are remembered for the cosine


def share_of_mean(group: dict[str, Any]) -> float:
    """w for the next step of this group.

    >>> share_of_mean({"agreement": -0.02, "agreement_weight": 1.0})
    0.6
    """
    weight = group["agreement_weight"]
    return min(1.0, max(0.0, 0.5 - SLOPE * group["agreement"] / weight)) if weight >= TRUSTED else 0.0


def hear_agreement(group: dict[str, Any], products: tuple[float, float, float], records: int) -> None:
    """Take in how an update u agrees with the one before, p. `products`: sums of u p, u u and p p.

    The first update has nothing before it, and one that is not finite says nothing.
    """
    across, own, before = products
    size = math.sqrt(own * before)
    if size > 0 and math.isfinite(across / size):
        share = -math.expm1(-records / AGREEMENT_RECORDS)
        group["agreement"] += share * (across / size - group["agreement"])
        group["agreement_weight"] += share * (1 - group["agreement_weight"])
