"""Forward and backward of the renormalising layers by the compiled kernel, one call each.

What is kept for backward is x itself and a handful of numbers per record and channel; the rest is computed again, which
costs less than to read it. Nothing is kept that a second derivative would need: to ask for one is an error.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stream_trainer.norms.decay import decay_of_batch
from stream_trainer.norms.kernel import compiled

if TYPE_CHECKING:
    from stream_trainer.norms.adaptive_batch_renorm import AdaptiveBatchRenorm
    from stream_trainer.norms.batch_renorm import BatchRenorm
    from stream_trainer.norms.horizons import TwoHorizonMoments
    from stream_trainer.norms.moments import RunningMoments

__all__ = ["FusedAdaptiveRenorm", "FusedRenorm"]

ROWS_BYTES = 4 * 4  # of the four rows that are kept, for each channel

Backward = Callable[..., tuple[Tensor | None, ...]]


def _differentiable_once(backward: Backward) -> Backward:
    """torch's once_differentiable, paid for only where somebody might differentiate twice."""
    guarded = once_differentiable(backward)

    @wraps(backward)
    def choose(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return guarded(ctx, *grads) if torch.is_grad_enabled() else backward(ctx, *grads)

    return choose


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


class FusedAdaptiveRenorm(torch.autograd.Function):
    """A training batch of n >= 1 records; see adaptive_batch_renorm.py. `state`: see kernel_state."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        layer: "AdaptiveBatchRenorm",
        moments: "TwoHorizonMoments",
        state: tuple[int, int, int, int],
    ) -> Tensor:
        n, channels, *_ = shape = x.shape
        positions = shape[2:].numel()
        control, decay, per_record = layer.control, moments.decays(n, x), layer.per_record == "layer"
        # 4 rows of channels, then the mean and 1/std of each record.
        y, kept, r_d = torch.empty_like(x), torch.empty(4 * channels + 2 * n * per_record), torch.empty(2, channels)
        ctx.correlation = compiled.adaptive_forward(
            n,
            channels,
            positions,
            x.data_ptr(),
            y.data_ptr(),
            _address(weight),
            _address(bias),
            *state,
            decay.share_3N.data_ptr(),
            per_record and kept.data_ptr() + ROWS_BYTES * channels,
            kept.data_ptr(),
            r_d.data_ptr(),
            layer.learning,
            layer.eps,
            *decay.masses,
            *decay.kepts,
            control.data_ptr(),
            layer.memory_slow,
            moments.noise,
            layer.learn_floor,
        )
        layer.remember(r_d, n)
        ctx.save_for_backward(x, weight, kept)
        ctx.layer, ctx.control, ctx.positions, ctx.per_record = layer, control, positions, per_record
        return y

    @staticmethod
    @_differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kept = ctx.saved_tensors
        layer, dy = ctx.layer, dy.contiguous()
        n, channels, *_ = x.shape
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dweight, dbias = (None, None) if weight is None else (torch.empty_like(weight), torch.empty_like(weight))
        compiled.adaptive_backward(
            n,
            channels,
            ctx.positions,
            dy.data_ptr(),
            x.data_ptr(),
            _address(weight),
            ctx.per_record and kept.data_ptr() + ROWS_BYTES * channels,
            kept.data_ptr(),
            _address(dx),
            _address(dweight),
            _address(dbias),
            ctx.control.data_ptr(),
            ctx.correlation,
            layer.learn_floor,
            layer.damping == "batch",
            layer.learning,
        )
        return dx, dweight, dbias, None, None, None


class FusedRenorm(torch.autograd.Function):
    """A training batch of n >= 1 records; see batch_renorm.py. `state`: see kernel_state."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        layer: "BatchRenorm",
        moments: "RunningMoments",
        state: tuple[int, int, int, int],
    ) -> Tensor:
        n, channels, *_ = shape = x.shape
        positions = shape[2:].numel()
        r_max, d_max = layer.preset.limits(int(moments.n_records))
        share_N, mass, rest = decay_of_batch(n, moments.half_life_records, x)
        y, kept, r_d = torch.empty_like(x), torch.empty(4, channels), torch.empty(2, channels)
        compiled.renorm_forward(
            n,
            channels,
            positions,
            x.data_ptr(),
            y.data_ptr(),
            _address(weight),
            _address(bias),
            *state,
            share_N.data_ptr(),
            0,
            kept.data_ptr(),
            r_d.data_ptr(),
            layer.learning,
            layer.eps,
            mass,
            0.0,
            rest,
            0.0,
            r_max,
            d_max,
        )
        layer.remember(r_d, r_max, d_max, n)
        ctx.save_for_backward(x, weight, kept)
        ctx.positions = positions
        return y

    @staticmethod
    @_differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kept = ctx.saved_tensors
        n, channels, *_ = x.shape
        dy = dy.contiguous()
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dweight, dbias = (None, None) if weight is None else (torch.empty_like(weight), torch.empty_like(weight))
        compiled.renorm_backward(
            n,
            channels,
            ctx.positions,
            dy.data_ptr(),
            x.data_ptr(),
            _address(weight),
            0,
            kept.data_ptr(),
            _address(dx),
            _address(dweight),
            _address(dbias),
        )
        return dx, dweight, dbias, None, None, None
