"""Online Normalization: each record is normalised by the moments from before it, forward and backward.

For record t, with D = decay_forward, B = decay_backward, m = mean over its positions:

    xhat_t = (x_t - mean_{t-1}) / std_{t-1}
    var_t  = D var + (1-D) var_P(x_t) + D (1-D) (m(x_t) - mean)^2,     mean_t = D mean + (1-D) m(x_t)
    g'_t   = g_t - (1-B) v_{t-1} xhat_t,                               v_t = v_{t-1} + m(g'_t xhat_t)
    dx_t   = g'_t / std_{t-1} - (1-B) u_{t-1},                         u_t = u_{t-1} + m(dx_t)

v and u remember what of the gradient went along xhat and along 1, and take it out of later records. As in the authors'
code xhat is clamped to +-5, with gradient 0 beyond. Other than there, the clamped xhat enters v too, and v never
changes sign by itself: at the start of badly scaled inputs v would otherwise grow without bound.

Source: Chiley, Sharapov, Kosson, Koster, Reece, Samaniego de la Fuente, Subbiah, James, "Online Normalization for
Training Neural Networks", 2019, arXiv:1905.05894.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_trainer.errors import ConfigError
from stream_trainer.norms.base import StatefulNorm
from stream_trainer.norms.moments import record_moments

__all__ = ["OnlineNorm"]

XHAT_MAX = 5.0
BLOCK_RECORDS = 64  # records solved for at once: the weights of a block are a square matrix


class OnlineNorm(StatefulNorm):
    """Online Normalization; formula and source above. State: mean, var, u, v, one number per channel each.

    `exact`: every record sees the moments of all records before it, those of its own batch included, so that without
    learning in between, any cut gives the same outputs and the same state. Forward is a product with a triangular
    matrix per block of 64 records; backward has one small operation per record. Not `exact`: the whole batch is
    normalised by the moments from before it, and u and v move once; for large batches, where that lag is worth its
    speed.

    A batch of one gives gradient to lower layers. In training, `backward` moves state too (u and v).

    >>> layer = OnlineNorm(3)
    >>> layer(torch.ones(2, 3)).shape, bool(layer.mean[0] > 0)
    (torch.Size([2, 3]), True)
    """

    mean: Tensor
    var: Tensor
    u: Tensor
    v: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        dims: int = 1,
        half_life_records: float = 692.8,  # D = .999
        half_life_records_backward: float = 69.0,  # B = .99
        exact: bool = True,
        eps: float = 1e-5,
        affine: bool = True,
    ) -> None:
        super().__init__(num_features, dims=dims, eps=eps, affine=affine)
        if not (half_life_records > 0 and half_life_records_backward > 0):
            raise ConfigError(
                f"online: half_life_records is {half_life_records}, half_life_records_backward "
                f"{half_life_records_backward}; expected numbers above 0."
            )
        self.half_life_records, self.half_life_records_backward = half_life_records, half_life_records_backward
        self.every_record = exact
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("var", torch.ones(num_features))
        self.register_buffer("u", torch.zeros(num_features))
        self.register_buffer("v", torch.zeros(num_features))

    def normalise_batch(self, x: Tensor) -> Tensor:
        return self.affine(_OnlineRenorm.apply(x, self))

    def normalise_inference(self, x: Tensor) -> Tensor:
        xhat = F.batch_norm(x, self.mean, self.var, None, None, False, 0.0, self.eps)
        return self.affine(xhat.clamp(-XHAT_MAX, XHAT_MAX))

    def set_moments(self, mean_C: Tensor, var_C: Tensor, n_records: int) -> None:
        self.mean.copy_(mean_C)
        self.var.copy_(var_C)

    def moments_before(self, mean_NC: Tensor, var_NC: Tensor | None) -> tuple[Tensor, Tensor]:
        """For each record the running moments from before it, (N, C); moves the state to after the last."""
        means, vars_ = [], []
        mean, var = self.mean, self.var
        for start in range(0, len(mean_NC), BLOCK_RECORDS):
            block = slice(start, start + BLOCK_RECORDS)
            earlier, kept, q = _decay_matrix(len(mean_NC[block]), self.half_life_records, mean_NC.dtype, mean_NC.device)
            mean_all = torch.addmm(kept * mean, earlier, mean_NC[block])  # (n + 1, C): before each, and after the last
            step = mean_NC[block] - mean_all[:-1]
            novelty = q * step.square() if var_NC is None else q * step.square() + var_NC[block]
            var_all = torch.addmm(kept * var, earlier, novelty)
            means.append(mean_all[:-1])
            vars_.append(var_all[:-1])
            mean, var = mean_all[-1], var_all[-1]
        if self.learning:
            self.mean.copy_(mean)
            self.var.copy_(var)
        mean_before, var_before = torch.cat(means), torch.cat(vars_)
        if not self.every_record:
            return mean_before[:1].expand_as(mean_before), var_before[:1].expand_as(var_before)
        return mean_before, var_before

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, half_life_records={self.half_life_records:g}, "
            f"half_life_records_backward={self.half_life_records_backward:g}, exact={self.every_record}"
        )


@lru_cache(maxsize=4 * BLOCK_RECORDS)
def _decay_matrix(
    n: int, half_life_records: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, float]:
    """(n + 1, n): weight of record j in the mean before record i, the last row after all; (n + 1, 1): of what was."""
    log_q = -math.log(2) / half_life_records
    age = torch.arange(n + 1).view(-1, 1) - 1 - torch.arange(n)
    weights = torch.where(age >= 0, torch.exp(log_q * age.double()), 0.0) * -math.expm1(log_q)
    kept = torch.exp(log_q * torch.arange(n + 1, dtype=torch.float64)).view(-1, 1)
    return weights.to(device, dtype), kept.to(device, dtype), math.exp(log_q)


class _OnlineRenorm(torch.autograd.Function):
    """xhat, and the gradient under the control of u and v."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: OnlineNorm) -> Tensor:
        mean_NC, inverse_NC = layer.moments_before(*record_moments(x))
        inverse_NC = (inverse_NC + layer.eps).rsqrt()
        view = (*mean_NC.shape, *[1] * (x.dim() - 2))
        xhat = ((x - mean_NC.reshape(view)) * inverse_NC.reshape(view)).clamp_(-XHAT_MAX, XHAT_MAX)
        ctx.save_for_backward(xhat, inverse_NC)
        ctx.layer = layer
        return xhat

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (xhat, inverse_NC), layer = ctx.saved_tensors, ctx.layer
        g = grads[0].masked_fill(xhat.abs() == XHAT_MAX, 0)
        axes = tuple(range(2, g.dim()))
        view = (*inverse_NC.shape, *[1] * (g.dim() - 2))
        rate = -math.expm1(-math.log(2) / layer.half_life_records_backward)  # 1 - B
        gx_NC, xx_NC, g_NC, x_NC = (t.mean(axes) if axes else t for t in (g * xhat, xhat.square(), g, xhat))
        v_NC, v = _along_records(layer.v, gx_NC, (1 - rate * xx_NC).clamp_min_(0), layer.every_record)
        # g' = g - rate v xhat, its mean over positions, and with it u: u_t = B u_{t-1} + m(g'_t) / std.
        mean_g = (g_NC - rate * v_NC * x_NC) * inverse_NC
        u_NC, u = _along_records(layer.u, mean_g, torch.full_like(mean_g, 1 - rate), layer.every_record)
        if layer.learning:
            layer.v.copy_(v)
            layer.u.copy_(u)
        dx = (g - (rate * v_NC).reshape(view) * xhat) * inverse_NC.reshape(view) - (rate * u_NC).reshape(view)
        return dx, None


def _along_records(start: Tensor, added_NC: Tensor, kept_NC: Tensor, every_record: bool) -> tuple[Tensor, Tensor]:
    """s_t = kept_t s_{t-1} + added_t: (s before each record (N, C), s after the last)."""
    if not every_record:
        # n moves of the mean record: kept^n start + (1 + kept + ... + kept^(n-1)) added.
        n, kept = len(added_NC), kept_NC.mean(0)
        kept_n = kept**n
        series = torch.where(kept < 1, (1 - kept_n) / (1 - kept).clamp_min(1e-12), n)
        return start.expand_as(added_NC), kept_n * start + series * added_NC.mean(0)
    states = [start]
    for added, kept in zip(added_NC.unbind(), kept_NC.unbind(), strict=True):
        states.append(torch.addcmul(added, states[-1], kept))
    return torch.stack(states[:-1]), states[-1]
