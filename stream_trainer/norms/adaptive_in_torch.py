"""Forward and shaped backward of adaptive_batch_renorm in torch's operations: for records with weights, for other
devices and dtypes, and for installations without the kernel (fused.py). The formulas are in adaptive_batch_renorm.py.

Suffixes: N = records, C = channels, P = positions of a record.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stream_trainer.norms.adaptive_batch_renorm import AdaptiveBatchRenorm

__all__ = ["SHIFT_MAX", "AdaptiveRenorm"]

SHIFT_MAX = 5.0  # mean of a batch, in running standard deviations: beyond, the channel is shifted back


class AdaptiveRenorm(torch.autograd.Function):
    """Forward and shaped backward of a training batch of n >= 1 records, or of records that count `weight_N` times."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        layer: "AdaptiveBatchRenorm",
        weight_N: Tensor | None,
    ) -> Tensor:
        eps, moments = layer.eps, layer.moments
        n = x.shape[0] if weight_N is None else float(weight_N.sum())
        if layer.per_record == "layer":
            u, mean_record, inverse_record = torch.native_layer_norm(x, x.shape[1:], None, None, eps)
        else:
            u, mean_record, inverse_record = x, None, None
        control = layer.read_control()
        decay = moments.decays(len(u), u) if weight_N is None else moments.decays_weighted(weight_N)
        batch = moments.measure(u, decay)
        (mean_slow, mean_fast), (var_slow, var_fast) = moments.mean.unbind(), moments.var.unbind()
        gap = mean_fast - mean_slow
        mean = torch.add(mean_slow, gap, alpha=control.share)
        var = torch.lerp(var_slow, var_fast, control.share)
        inverse = (var + eps).rsqrt_()
        shift = (batch.mean_C - mean).mul_(inverse)
        limited = shift.clamp(-SHIFT_MAX, SHIFT_MAX)
        mean += (shift - limited).div_(inverse)  # moves a channel that is too far out back to the limit
        y = torch.native_batch_norm(u, weight, bias, mean, var, False, 0.0, eps)[0]
        layer.remember(((batch.var_C + eps).sqrt_().mul_(inverse), shift), n)
        if layer.learning and not math.isfinite(float(batch.var_C.sum())):
            layer.learn_usable(u, weight_N)
        elif layer.learning:
            moments.merge(batch, decay)
            power = float(torch.dot(shift, shift)) / len(shift)
            control = layer.observe(control, n, max(n, int(moments.n_records)), power, moments.distance(eps))
            layer.write_control(control)
        kept = (mean, var, inverse, limited, batch.var_C, gap)
        ctx.save_for_backward(x, u, mean_record, inverse_record, weight, weight_N, *kept)
        ctx.layer, ctx.n, ctx.correlation = layer, n, control.correlation
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), layer = grads, ctx.layer
        x, u, mean_record, inverse_record, weight, weight_N, *kept = ctx.saved_tensors
        mean, var, inverse, mean_x, var_batch, gap = kept
        n, positions = ctx.n, u.shape[2:].numel()
        _, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, u, weight, mean, var, None, None, False, layer.eps, [False, True, True]
        )
        control, damping = layer.damp(layer.read_control(), n)
        scale = inverse * damping if weight is None else (inverse * weight).mul_(damping)
        sum_g = dbias * scale  # g = damping weight dy / std, once and for all: what follows is linear in it
        if layer.learning:
            if layer.learn_floor:
                control = layer.learn_floor_from(control, -float(torch.dot(sum_g, gap)) / damping, n)
            layer.write_control(control)
        of_affine = (None, None) if weight is None else (dweight, dbias)
        if not ctx.needs_input_grad[0]:
            return None, *of_affine, None, None
        s, share = layer.trust(n, positions, ctx.correlation), 1 / (n * positions)
        # Regression of g on (1, xhat), the moments of xhat shrunk to (0, 1); the fraction is cancelled by s:
        #   slope = s (m(g xhat) - s m(g) m(xhat)) / (1 - s + s m(xhat^2) - s^2 m(xhat)^2),  here for sums, not means.
        covariance = torch.addcmul(dweight * scale, sum_g, mean_x, value=-s)
        variance = (var_batch * inverse).mul_(inverse).addcmul_(mean_x, mean_x, value=1 - s).add_((1 - s + 1e-6) / s)
        slope = covariance.div_(variance)
        slope_u = slope * inverse
        # du = g - (s m(g) - s slope m(xhat)) - slope (u - mean) inverse, in two fused sweeps.
        constant = sum_g.mul_(-s * share).addcmul_(slope, mean_x, value=s * share).addcmul_(slope_u, mean, value=share)
        view = (1, -1, *[1] * (u.dim() - 2))
        if weight_N is None:
            du = torch.addcmul(constant.view(view), scale.view(view), dy).addcmul_(slope_u.view(view), u, value=-share)
        else:  # what is taken out of the gradient is taken once for each time that the record counts
            counts = weight_N.view(-1, *[1] * (u.dim() - 1))
            du = scale.view(view) * dy + counts * (constant.view(view) - share * slope_u.view(view) * u)
        if mean_record is None:
            return du, *of_affine, None, None
        dx = torch.ops.aten.native_layer_norm_backward(
            du, x, x.shape[1:], mean_record, inverse_record, None, None, [True, False, False]
        )[0]
        return dx, *of_affine, None, None
