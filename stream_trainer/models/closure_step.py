"""A step of an optimizer that asks for the loss of its batch several times (L-BFGS), and taken back if it did harm.

A record is still learned from once: standardiser, norm moments and random state move once a batch, as for every other
optimizer, and each evaluation of the loss finds them as they were before the batch, so that it is one function of the
weights alone. A step after which that function is higher, or not finite, never happened.
That does not show what a step does to other records: one that fits a handful of them perfectly can ruin the rest, and
it did, for good. So a batch of fewer than RECORDS_MIN is not learned from.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RECORDS_MIN", "StepMemory", "first_known", "needs_closure"]

RECORDS_MIN = 16  # where it began to beat stream_adamw; 200 batches of one left an error of .18 that nothing mended


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `optimizer.step` must be handed a function that computes loss and gradients."""
    return isinstance(optimizer, torch.optim.LBFGS)


class StepMemory:
    """Weights and the optimizer's memory at one moment, to return to.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> memory = StepMemory([weight], torch.optim.SGD([weight]))
    >>> with torch.no_grad(): weight.zero_().tolist()
    [0.0, 0.0]
    >>> memory.recall(); weight.tolist()
    [1.0, 1.0]
    """

    def __init__(self, parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in parameters]
        self._optimizer = optimizer
        self._state = {key: {name: _copied(v) for name, v in memory.items()} for key, memory in optimizer.state.items()}

    @torch.no_grad()
    def recall(self) -> None:
        for tensor, value in self._tensors:
            tensor.copy_(value)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)


def _copied(value: Any) -> Any:
    """Lists of L-BFGS grow and shrink, the tensors in them stay; others are written into."""
    if isinstance(value, Tensor):
        return value.clone()
    return list(value) if isinstance(value, list) else value


def first_known(first: float, evaluate: Callable[[], float]) -> Callable[[], float]:
    """`evaluate`, but for its first call, whose loss and gradients are there already."""
    known = [first]
    return lambda: known.pop() if known else evaluate()
