"""The layer that reads the inputs: it can begin anew while the layers above keep what they know."""

import torch
from torch import Tensor, nn

__all__ = ["renew_input_layer"]


def renew_input_layer(network: nn.Module, began: nn.Module) -> None:
    """Give the first layer of weights, embeddings aside, the values it has in `began`, a network of the same build.

    Biases stay, as do gains: they say how much of a unit is wanted, not what it reads.

    >>> network, began = (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)) for _ in range(2))
    >>> renew_input_layer(network, began)
    >>> [torch.equal(network[i].weight, began[i].weight) for i in (0, 1)]
    [True, False]
    """
    now, initial = _first_layer(network), _first_layer(began)
    if now is not None and initial is not None:
        with torch.no_grad():
            now.copy_(initial)


def _first_layer(network: nn.Module) -> Tensor | None:
    """The first matrix or kernel in the order in which the network was put together; None: it has none."""
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    return next((p for p in network.parameters() if p.ndim >= 2 and id(p) not in tables), None)
