"""Copies of large tensors that are made beside the next forward pass, not before it.

Only the optimizer writes weights and its own memory, and it comes last in a step. So a snapshot may begin with empty
room for them: the thread that saves fills it while the network already predicts and differentiates the next batch. Who
is about to change an original calls `finish` first, and so does who reads a copy; whoever comes first does the work,
the other waits for it. Refused: nothing; what is small, or lies on another device, is copied at once.
"""

import threading

import torch
from torch import Tensor

__all__ = ["LateCopy"]

LATE_BYTES_MIN = 2**18  # below this a lock and a list entry cost more than the copy


class LateCopy:
    """The copies of one moment, some of them still to be made.

    >>> weight = torch.ones(2**20)
    >>> late = LateCopy()
    >>> copy = late.of(weight)
    >>> late.finish()
    >>> _ = weight.zero_()
    >>> copy.sum().item()
    1048576.0
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def of(self, tensor: Tensor) -> Tensor:
        """A tensor that holds what `tensor` holds now, once `finish` has run; nobody may write to `tensor` before."""
        tensor = tensor.detach()
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.nbytes < LATE_BYTES_MIN:
            return tensor.clone()
        copy = torch.empty_like(tensor)
        self._pairs.append((copy, tensor))
        return copy

    def finish(self) -> None:
        """Fill in what is missing, from any thread; returns when all is whole. Costs nothing the second time."""
        with self._lock:
            for copy, original in self._pairs:
                copy.copy_(original)
            self._pairs.clear()
