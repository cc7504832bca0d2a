"""How long a gradient is: what limits are set on, and where a loss gone wild is first seen."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stream_trainer.optimizers.kernel import step_kernel

__all__ = ["gradient_norm"]


def gradient_norm(parameters: Sequence[nn.Parameter]) -> float:
    """Euclidean norm over all gradients; of a sparse one the entries of a row are added up first, as they will be.

    Returns: 0 where nothing has a gradient; nan or infinity if a gradient holds one.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> gradient_norm([weight])
    5.0
    """
    gradients = [gradient for p in parameters if (gradient := p.grad) is not None]
    compiled = step_kernel()
    if compiled is not None:
        sums = [compiled.squares([gradient for gradient in gradients if not gradient.is_sparse])]
        sums += [compiled.row_squares(g._indices(), g._values(), len(g)) for g in gradients if g.is_sparse]
        if None not in sums:
            return math.sqrt(sum(sums))
    return _by_torch(gradients)


def _by_torch(gradients: list[Tensor]) -> float:
    values = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values))).item() if values else 0.0
