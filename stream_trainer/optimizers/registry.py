"""The optimizers one can name in a configuration.

`sgd`, `adam` and `adamw` are torch's, with torch's defaults but for one: the fused step, which on a small network
takes a third of the time and does the same arithmetic. `stream_adamw` is ours.
`lbfgs` is torch's, with the strong Wolfe line search unless told otherwise: a step of fixed length overshoots. It needs
a closure, evaluates a batch up to 1.25 max_iter times, and no gradient of it is clipped. Its curvature comes from the
gradients of one batch after the other, so it needs batches whose losses are much alike: set batch.records_min. On a
stream of two classes (one seed) it erred in .46 and .51 of the records, no better than chance, in batches of 1 and 4,
where stream_adamw erred in .28 and .19; in .10 (.14) in batches of 16, and in .04 (.15) in batches of 256. A model
therefore learns nothing by it from fewer than 16 records.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import torch

from stream_trainer.errors import ConfigError
from stream_trainer.optimizers.stream_adamw import StreamAdamW

__all__ = ["OPTIMIZERS", "build_optimizer"]

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "stream_adamw": StreamAdamW,
    "lbfgs": torch.optim.LBFGS,
}

# They say how torch computes, not what; a choice among them by the user switches ours off.
_WAYS_TO_COMPUTE = {"foreach", "fused", "differentiable", "capturable"}


def build_optimizer(name: str, parameters: Iterable[torch.nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    """Build an optimizer by its name in the configuration.

    Raises: ConfigError: no optimizer of this name, no option of this name, or a value the optimizer refuses.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> build_optimizer("sgd", [weight], lr=0.1, momentum=0.9).param_groups[0]["momentum"]
    0.9
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optimizer is {name!r}; known optimizers: {', '.join(sorted(OPTIMIZERS))}.")
    kind = OPTIMIZERS[name]
    known = list(inspect.signature(kind.__init__).parameters)[2:]  # after self and params
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"optimizer.{name}: no option {unknown[0]!r}; known options: {', '.join(sorted(known))}.")
    if "fused" in known and not _WAYS_TO_COMPUTE & set(options):
        options["fused"] = True
    if kind is torch.optim.LBFGS:
        options.setdefault("line_search_fn", "strong_wolfe")
    try:
        return kind(parameters, **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"optimizer.{name} cannot be built with {options}: {error}") from error
