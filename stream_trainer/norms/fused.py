"""Forward and backward of the renormalising layers by the compiled kernel, one call each.

What is kept for backward is x itself and a handful of numbers per record and channel; the rest is computed again, which
costs less than to read it. Nothing is kept that a second derivative would need: to ask for one is an error.
A small batch takes as long as the Python around it: tensors are handed over as they are, C asks for their addresses.
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

__all__ = ["fused_adaptive_renorm", "fused_renorm"]

Backward = Callable[..., tuple[Tensor | None, ...]]


def _differentiable_once(backward: Backward) -> Backward:
    """torch's once_differentiable, paid for only where somebody might differentiate twice."""
    guarded = once_differentiable(backward)

    @wraps(backward)
    def choose(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return guarded(ctx, *grads) if torch.is_grad_enabled() else backward(ctx, *grads)

    return choose


class _FusedAdaptiveRenorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        layer: "AdaptiveBatchRenorm",
        moments: "TwoHorizonMoments",
    ) -> Tensor:
        shape, per_record, control = x.shape, layer.per_record == "layer", layer.control
        n, channels = shape[0], shape[1]
        share_3N, _, _, masses, kepts, _ = moments.decays(n, x)
        # 4 rows of channels, then the mean and 1/std of each record.
        kept, r_d = x.new_empty(4 * channels + 2 * n * per_record), x.new_empty(2, channels)
        y, learning = torch.empty_like(x), layer.learning
        ctx.correlation, finite = compiled.adaptive_forward(
            shape, x, y, weight, bias, kept, share_3N, masses, kepts, layer.eps, learning, moments._buffers,
            r_d, per_record, control, layer.memory_slow, moments.noise, layer.learn_floor,
        )  # fmt: skip
        if learning and not finite:
            layer.learn_usable(layer.normalised_records(x))
        layer.remember(r_d, n)
        ctx.save_for_backward(x, weight, kept)
        ctx.layer, ctx.control, ctx.per_record = layer, control, per_record
        return y

    @staticmethod
    @_differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kept = ctx.saved_tensors
        layer = ctx.layer
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dweight, dbias = (None, None) if weight is None else (torch.empty_like(weight), torch.empty_like(weight))
        compiled.adaptive_backward(
            x.shape, dy.contiguous(), x, weight, kept, dx, dweight, dbias,
            ctx.per_record, ctx.control, ctx.correlation, layer.learn_floor, layer.damping == "batch", layer.learning,
        )  # fmt: skip
        return dx, dweight, dbias, None, None


class _FusedRenorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        layer: "BatchRenorm",
        moments: "RunningMoments",
    ) -> Tensor:
        shape, preset, learning = x.shape, layer.preset, layer.learning
        share_N, mass, rest = decay_of_batch(shape[0], moments.half_life_records, x)
        y, kept = torch.empty_like(x), x.new_empty(4, shape[1])
        r_max, d_max, finite = compiled.renorm_forward(
            shape, x, y, weight, bias, kept, share_N, (mass,), (rest,), layer.eps, learning, moments._buffers,
            preset.r_max, preset.d_max, preset.plain_records, preset.r_full_records, preset.d_full_records,
        )  # fmt: skip
        if learning and not finite:
            layer.learn_usable(x)
        layer.remember(kept, r_max, d_max, shape[0])
        ctx.save_for_backward(x, weight, kept)
        ctx.limits = r_max, d_max
        return y

    @staticmethod
    @_differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kept = ctx.saved_tensors
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dweight, dbias = (None, None) if weight is None else (torch.empty_like(weight), torch.empty_like(weight))
        compiled.renorm_backward(x.shape, dy.contiguous(), x, weight, kept, dx, dweight, dbias, *ctx.limits)
        return dx, dweight, dbias, None, None


# Past Function.apply itself, whose only work is for transforms of functorch (vmap, jvp), and the kernel does not take
# what they wrap. Saves a twentieth of a small batch.
fused_adaptive_renorm: Callable[..., Tensor] = super(torch.autograd.Function, _FusedAdaptiveRenorm).apply
"""(x, weight, bias, layer, moments) -> y: a training batch of n >= 1 records; see adaptive_batch_renorm.py."""
fused_renorm: Callable[..., Tensor] = super(torch.autograd.Function, _FusedRenorm).apply
"""(x, weight, bias, layer, moments) -> y: a training batch of n >= 1 records; see batch_renorm.py."""
