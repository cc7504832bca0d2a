"""Statistics are float32 or wider, whatever the dtype of the activations, the cast of the model or autocast."""

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

__all__ = ["WideModule", "in_float32", "wide"]


def in_float32(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x) in float32 or wider, back in the dtype of x. Autocast is off meanwhile: it would take the matrix
    products of the moments in bfloat16. Layers are called for every batch, so what need not be done is not done."""
    if torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return function(wide(x)).to(x.dtype)
    y = function(wide(x))
    return y if y.dtype == x.dtype else y.to(x.dtype)


def wide(x: Tensor) -> Tensor:
    """x in float32, or wider if it is: statistics of float16 overflow, of bfloat16 have three digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class WideModule(nn.Module):
    """A module whose numbers no cast narrows: `.half()` leaves them in float32, the buffers in `exact` as they are.

    Moments in float16 overflow, and in bfloat16 they stop moving: a step of 1/1000 of a value is below its digits.
    """

    exact: ClassVar[tuple[str, ...]] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = [getattr(self, name) for name in self.exact]

        def wide_fn(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if not moved.is_floating_point():
                return moved
            as_is = any(tensor is other for other in exact)
            dtype = tensor.dtype if as_is else torch.promote_types(moved.dtype, torch.float32)
            return moved if moved.dtype == dtype else tensor.to(moved.device, dtype)

        return super()._apply(wide_fn, recurse)
