"""The buffers of a network (moments of its norms, counters): what the forward pass moves and no optimizer guards."""

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["Buffers", "Kept"]

Kept = Sequence[tuple[dict[str, Tensor | None], str, Tensor]]
"""Of each buffer its module's dictionary, its name there, and what it was."""


class Buffers:
    """Looked for once: torch walks through all modules for each look, and a step takes one.

    By their place, for a module may put another tensor there instead of changing the one it has.

    >>> norm = nn.BatchNorm1d(2)
    >>> buffers = Buffers(norm)
    >>> before = buffers.keep()
    >>> norm.running_mean = norm.running_mean + 1
    >>> buffers.put_back(before); norm.running_mean.tolist()
    [0.0, 0.0]
    """

    def __init__(self, network: nn.Module) -> None:
        self._places = [(module._buffers, name) for module in network.modules() for name in module._buffers]

    def keep(self) -> Kept:
        return [(home, name, now.clone()) for home, name in self._places if (now := home[name]) is not None]

    @staticmethod
    def put_back(kept: Kept) -> None:
        for home, name, value in kept:
            buffer = home[name]
            assert buffer is not None
            buffer.copy_(value)
