"""The learning rate as a function of the records in the batch, for optimizers that count steps.

Legend: n = records in this batch, n0 = `reference_records`, the batch size that the configured rate was chosen for.
Not for StreamAdamW: it counts records itself.
Sources: linear: Goyal et al. 2017, arXiv:1706.02677; sqrt: Krizhevsky 2014, arXiv:1404.5997. `momentum_exact` is the
linear rule for SGD whose momentum forgets by records: the total move that one gradient causes in the end stays in
proportion to n.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from stream_trainer.errors import ConfigError
from stream_trainer.optimizers.stream_adamw import StreamAdamW

__all__ = ["RATE_RULES", "RateScaling", "Stepper"]

Group = Mapping[str, Any]


def _none(group: Group, ratio: float) -> dict[str, float]:
    return {}


def _sqrt(group: Group, ratio: float) -> dict[str, float]:
    return {"lr": group["lr"] * ratio**0.5}


def _linear(group: Group, ratio: float) -> dict[str, float]:
    return {"lr": group["lr"] * ratio}


def _momentum_exact(group: Group, ratio: float) -> dict[str, float]:
    kept = group["momentum"] ** ratio
    return {"lr": group["lr"] * ratio * (1 - kept) / (1 - group["momentum"]), "momentum": kept}


RATE_RULES: dict[str, Callable[[Group, float], dict[str, float]]] = {
    "none": _none,
    "sqrt": _sqrt,
    "linear": _linear,
    "momentum_exact": _momentum_exact,
}
"""Rule -> the settings of a parameter group for a batch of n = ratio * n0 records."""


@dataclass(frozen=True, kw_only=True)
class RateScaling:
    """How the learning rate follows the size of the batch.

    none: not at all. sqrt: lr (n/n0)^½, for Adam and its kin. linear: lr n/n0, for SGD without momentum.
    momentum_exact, for SGD with momentum m: momentum m^(n/n0) = m', rate lr (n/n0) (1-m')/(1-m).
    """

    rule: str = "none"
    reference_records: int = 16  # the size at which the rates in our tables were chosen

    def __post_init__(self) -> None:
        if self.rule not in RATE_RULES:
            raise ConfigError(f"lr_scaling.rule is {self.rule!r}; known rules: {', '.join(sorted(RATE_RULES))}.")
        if self.reference_records < 1:
            raise ConfigError(f"lr_scaling.reference_records is {self.reference_records}; it must be at least 1.")


class Stepper:
    """Makes one step of any optimizer for a batch of n records.

    The scaled settings live only while the step is made: the groups, and so every saved state, hold the base rate,
    and nothing can drift.

    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> stepper = Stepper(torch.optim.SGD([weight], lr=0.5), RateScaling(rule="linear", reference_records=2))
    >>> weight.grad = torch.ones(1)
    >>> stepper.step(records=6), weight.item(), stepper.optimizer.param_groups[0]["lr"]
    (1.5, -1.5, 0.5)
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scaling: RateScaling | None = None) -> None:
        """Raises ConfigError where the rule does not fit the optimizer."""
        self.optimizer = optimizer
        self.scaling = scaling or RateScaling()
        self._rule = RATE_RULES[self.scaling.rule]
        rule = self.scaling.rule
        if rule != "none" and isinstance(optimizer, StreamAdamW):
            raise ConfigError(
                f"lr_scaling.rule is {rule!r}, but stream_adamw counts records itself: the rate would be scaled twice. "
                "Remove lr_scaling."
            )
        if rule == "momentum_exact" and not all(_plain_momentum(group) for group in optimizer.param_groups):
            raise ConfigError(
                "lr_scaling.rule is 'momentum_exact'; it is defined for the optimizer sgd with dampening 0 only, not "
                f"for {type(optimizer).__name__} as configured. Take sqrt, or the optimizer stream_adamw."
            )

    def step(self, records: int, closure: Callable[[], float] | None = None) -> float:
        """One step for a batch of `records`; returns the learning rate that it used (of the first group).

        `closure` computes loss and gradients anew: lbfgs needs one, the others take none.
        """
        optimizer = self.optimizer
        if isinstance(optimizer, StreamAdamW):
            return optimizer.step(records=records)
        ratio = records / self.scaling.reference_records
        scaled = [self._rule(group, ratio) for group in optimizer.param_groups]
        base = [{name: group[name] for name in changes} for group, changes in zip(optimizer.param_groups, scaled)]
        _assign(optimizer, scaled)
        try:
            rate = float(optimizer.param_groups[0]["lr"])
            optimizer.step(closure)
        finally:
            _assign(optimizer, base)
        return rate


def _plain_momentum(group: Group) -> bool:
    return group.get("momentum") is not None and group.get("dampening") == 0


def _assign(optimizer: torch.optim.Optimizer, settings: list[dict[str, float]]) -> None:
    for group, changes in zip(optimizer.param_groups, settings):
        group.update(changes)
