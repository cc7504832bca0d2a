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
from stream_trainer.norms.base import StatefulNorm, usable_records
from stream_trainer.norms.kernel import compiled, kernel_takes
from stream_trainer.norms.moments import record_moments

__all__ = ["OnlineNorm"]

XHAT_MAX = 5.0
BLOCK_RECORDS = 64  # records solved for at once: the weights of a block are a square matrix


class OnlineNorm(StatefulNorm):
    """Online Normalization; formula and source above. State: mean, var, u, v, one number per channel each.

    `exact`: every record sees the moments of all records before it, those of its own batch included, so that without
    learning in between, any cut gives the same outputs and the same state. Forward is a product with a triangular
    matrix per block of 64 records; backward goes from record to record, in one call of the compiled kernel or, without
    it, in one small operation each. Not `exact`: the whole batch is normalised by the moments from before it, and u
    and v move once; for large batches without the kernel, where that lag is worth its speed.

    A record of weight w (see forward) moves the moments exactly as w times that record; u and v it moves once, as far
    as w moves go together: exact for 0 and 1.

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
        return self.affine(_OnlineRenorm.apply(x, self, None))

    def normalise_weighted(self, x: Tensor, weight_N: Tensor) -> Tensor:
        return self.affine(_OnlineRenorm.apply(x, self, weight_N))

    def normalise_inference(self, x: Tensor) -> Tensor:
        xhat = F.batch_norm(x, self.mean, self.var, None, None, False, 0.0, self.eps)
        return self.affine(xhat.clamp(-XHAT_MAX, XHAT_MAX))

    def set_moments(self, mean_C: Tensor, var_C: Tensor, n_records: int) -> None:
        self.mean.copy_(mean_C)
        self.var.copy_(var_C)

    def moments_before(self, x: Tensor, weight_N: Tensor | None) -> tuple[Tensor, Tensor]:
        """For each record the running moments from before it, (N, C); moves the state to after the last."""
        mean_NC, var_NC = record_moments(x)
        means, vars_, mean, var = self._walk(mean_NC, var_NC, weight_N)
        if self.learning:
            if not math.isfinite(float(var.sum())):
                usable_N = usable_records(x)
                there_N = torch.ones_like(usable_N) if weight_N is None else weight_N > 0
                self.records_refused += int((~usable_N & there_N).sum())
                weight_N = usable_N.to(x.dtype) if weight_N is None else weight_N.masked_fill(~usable_N, 0)
                _, _, mean, var = self._walk(mean_NC, var_NC, weight_N)
            self.mean.copy_(mean)
            self.var.copy_(var)
        if not self.every_record:
            return means[:1].expand_as(means), vars_[:1].expand_as(vars_)
        return means, vars_

    def _walk(
        self, mean_NC: Tensor, var_NC: Tensor | None, weight_N: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and variance before each record (N, C), then after the last (C,)."""
        means, vars_ = [], []
        mean, var = self.mean, self.var
        if weight_N is not None:  # what does not count may hold anything, and 0 * nan is nan
            absent_N1 = (weight_N == 0).view(-1, 1)
            mean_NC = mean_NC.masked_fill(absent_N1, 0)
            var_NC = None if var_NC is None else var_NC.masked_fill(absent_N1, 0)
        for start in range(0, len(mean_NC), BLOCK_RECORDS):
            block = slice(start, start + BLOCK_RECORDS)
            earlier, kept, q = (
                _decay_matrix(len(mean_NC[block]), self.half_life_records, mean_NC.dtype, mean_NC.device)
                if weight_N is None
                else _decay_matrix_of(weight_N[block], self.half_life_records)
            )
            mean_all = torch.addmm(kept * mean, earlier, mean_NC[block])  # (n + 1, C): before each, and after the last
            step = mean_NC[block] - mean_all[:-1]
            novelty = q * step.square() if var_NC is None else q * step.square() + var_NC[block]
            var_all = torch.addmm(kept * var, earlier, novelty)
            means.append(mean_all[:-1])
            vars_.append(var_all[:-1])
            mean, var = mean_all[-1], var_all[-1]
        return torch.cat(means), torch.cat(vars_), mean, var

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


def _decay_matrix_of(weight_N: Tensor, half_life_records: float) -> tuple[Tensor, Tensor, Tensor]:
    """As `_decay_matrix`, for records that count `weight_N` times each; q is then (n, 1)."""
    log_q = -math.log(2) / half_life_records
    weight = weight_N.double()
    seen = torch.cat([weight.new_zeros(1), weight.cumsum(0)])  # before each record, and after all
    age = seen.view(-1, 1) - seen[1:]  # of each record's end, seen from before record i
    earlier = torch.ones(len(seen), len(weight), device=weight.device).tril(-1).bool()
    weights = torch.where(earlier, torch.exp(log_q * age), 0.0) * -torch.expm1(log_q * weight)
    kept, q = torch.exp(log_q * seen).view(-1, 1), torch.exp(log_q * weight).view(-1, 1)
    return weights.to(weight_N.dtype), kept.to(weight_N.dtype), q.to(weight_N.dtype)


class _OnlineRenorm(torch.autograd.Function):
    """xhat, and the gradient under the control of u and v."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: OnlineNorm, weight_N: Tensor | None) -> Tensor:
        mean_NC, inverse_NC = layer.moments_before(x, weight_N)
        inverse_NC = (inverse_NC + layer.eps).rsqrt()
        view = (*mean_NC.shape, *[1] * (x.dim() - 2))
        xhat = ((x - mean_NC.reshape(view)) * inverse_NC.reshape(view)).clamp_(-XHAT_MAX, XHAT_MAX)
        ctx.save_for_backward(xhat, inverse_NC, weight_N)
        ctx.layer = layer
        return xhat

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (xhat, inverse_NC, weight_N), layer = ctx.saved_tensors, ctx.layer
        g = grads[0].masked_fill(xhat.abs() == XHAT_MAX, 0)
        axes = tuple(range(2, g.dim()))
        view = (*inverse_NC.shape, *[1] * (g.dim() - 2))
        rate: Any = -math.expm1(-math.log(2) / layer.half_life_records_backward)  # 1 - B
        gx_NC, xx_NC, g_NC, x_NC = (t.mean(axes) if axes else t for t in (g * xhat, xhat.square(), g, xhat))
        kept_v, kept_u = (1 - rate * xx_NC).clamp_min_(0), torch.full_like(g_NC, 1 - rate)
        if weight_N is not None:
            # As many moves as the record counts times; its gradient counts them already. One that does not count is
            # neither controlled nor a control of later ones.
            count_N1 = weight_N.view(-1, 1)
            kept_v, kept_u, rate = kept_v**count_N1, kept_u**count_N1, rate * count_N1
            gx_NC = gx_NC.masked_fill(count_N1 == 0, 0)
        v_NC, v = _along_records(layer, layer.v, gx_NC, kept_v)
        # g' = g - rate v xhat, its mean over positions, and with it u: u_t = B u_{t-1} + m(g'_t) / std.
        mean_g = (g_NC - rate * v_NC * x_NC) * inverse_NC
        if weight_N is not None:
            mean_g = mean_g.masked_fill(count_N1 == 0, 0)
        u_NC, u = _along_records(layer, layer.u, mean_g, kept_u)
        if layer.learning and math.isfinite(float(u.sum() + v.sum())):  # remembered, a nan would stay for ever
            layer.v.copy_(v)
            layer.u.copy_(u)
        dx = (g - (rate * v_NC).reshape(view) * xhat) * inverse_NC.reshape(view) - (rate * u_NC).reshape(view)
        return dx, None, None


def _along_records(layer: OnlineNorm, start: Tensor, added_NC: Tensor, kept_NC: Tensor) -> tuple[Tensor, Tensor]:
    """s_t = kept_t s_{t-1} + added_t: (s before each record (N, C), s after the last)."""
    if not layer.every_record:
        # n moves of the mean record: kept^n start + (1 + kept + ... + kept^(n-1)) added.
        n, kept = len(added_NC), kept_NC.mean(0)
        kept_n = kept**n
        series = torch.where(kept < 1, (1 - kept_n) / (1 - kept).clamp_min(1e-12), n)
        return start.expand_as(added_NC), kept_n * start + series * added_NC.mean(0)
    if kernel_takes(added_NC, kept_NC, None, layer):
        all_states = added_NC.new_empty(len(added_NC) + 1, added_NC.shape[1])
        compiled.recur(added_NC.shape, start.contiguous(), added_NC, kept_NC, all_states)
        return all_states[:-1], all_states[-1]
    states = [start]
    for added, kept in zip(added_NC.unbind(), kept_NC.unbind(), strict=True):
        states.append(torch.addcmul(added, states[-1], kept))
    return torch.stack(states[:-1]), states[-1]
