"""Batch Renormalization for batches of any size, one record included, with memory and schedule counted in records.

    y = weight * ((x - mean_B) / std_B * r + d) + bias        std = sqrt(var + eps), var biased
    r = clip(std_B / std, 1/r_max, r_max),  d = clip((mean_B - mean) / std, -d_max, d_max)

mean and std are the running moments from before the batch; r and d are constants for the gradient. While nothing limits
r and d, training and inference compute the same. Here, other than in the paper, the running moments are exact for any
cut of the stream (moments.py), and limits widen by records, not by steps.

Source: Ioffe, "Batch Renormalization", 2017, arXiv:1702.03275, algorithm 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, log, sqrt
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_trainer.errors import ConfigError
from stream_trainer.norms.base import NormDrift, StatefulNorm, weighted_moments
from stream_trainer.norms.fused import fused_renorm
from stream_trainer.norms.kernel import kernel_takes
from stream_trainer.norms.moments import RunningMoments, record_moments

__all__ = ["RENORM_PRESETS", "BatchRenorm", "RenormPreset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenormPreset:
    """Limits, when they widen, and the memory. Limits grow linearly from (1, 0): plain batch normalisation.

    The defaults are preset `stream`: full limits at once, since a stream that pauses for its warm-up is predicted
    badly all the while, and a memory of 256 records (time constant), the best of the grids in which it was a rival.
    """

    r_max: float = 3.0  # final limits of the paper: reached rarely (r) or never (d) once trained
    d_max: float = 5.0
    plain_records: int = 0  # up to here plain batch normalisation
    r_full_records: int = 0  # r_max is reached here
    d_full_records: int = 0  # d_max is reached here
    half_life_records: float = 177.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.r_max < 1 or self.d_max < 0:
            raise ConfigError(f"batch_renorm: r_max is {self.r_max}, d_max {self.d_max}; expected >= 1 and >= 0.")
        if not 0 <= self.plain_records <= min(self.r_full_records, self.d_full_records):
            raise ConfigError(
                f"batch_renorm: plain_records is {self.plain_records}, r_full_records {self.r_full_records}, "
                f"d_full_records {self.d_full_records}; expected 0 <= plain <= both others."
            )

    def limits(self, n_records: int) -> tuple[float, float]:
        """(r_max, d_max) for the batch that comes after `n_records`.

        >>> RENORM_PRESETS["continual"].limits(3_049)
        (1.125, 0.125)
        """
        if n_records < self.plain_records or n_records == 0:  # nothing remembered yet: nothing to renormalise with
            return 1.0, 0.0
        r = self._ramp(n_records, self.r_full_records)
        d = self._ramp(n_records, self.d_full_records)
        return 1.0 + (self.r_max - 1.0) * r, self.d_max * d

    def _ramp(self, n_records: int, full_records: int) -> float:
        done, span = n_records - self.plain_records, full_records - self.plain_records
        return 1.0 if done >= span else done / span


def _half_life(records_per_step: int, step_weight: float = 0.01) -> float:
    """Half-life in records of a moving average that takes `step_weight` of each batch of that many records."""
    return round(records_per_step * log(0.5) / log(1 - step_weight), 1)


RENORM_PRESETS: Mapping[str, RenormPreset] = MappingProxyType(
    {
        "stream": RenormPreset(),
        # 5,000 / 40,000 / 25,000 steps of 32 records, weight .01 a step.
        "paper": RenormPreset(
            plain_records=160_000, r_full_records=1_280_000, d_full_records=800_000, half_life_records=_half_life(32)
        ),
        # 100,000 updates of 2 x 256 rows (current and next transitions in one pass), then the full limits at once.
        "crossq": RenormPreset(
            plain_records=51_200_000,
            r_full_records=51_200_000,
            d_full_records=51_200_000,
            half_life_records=_half_life(512),
            eps=1e-3,
        ),
        # AR1 of continual learning: both limits grow by 4.1e-5 a record; weight .01 for batches of 128.
        "continual": RenormPreset(
            r_max=1.25, d_max=0.5, r_full_records=6_098, d_full_records=12_196, half_life_records=_half_life(128)
        ),
    }
)


class BatchRenorm(StatefulNorm):
    """Batch Renormalization; formula and source above.

    A batch of one: defined, the output of a dense layer is then d, and **gives no gradient to lower layers**: with one
    value per channel the batch statistic follows every change of the input (at n = 2 it is of the order of eps). With
    positions (images, sequences) it does. Where dense batches of one occur, take `adaptive_batch_renorm`.

    Args:   preset: a name of RENORM_PRESETS, or one's own; r_max, d_max, half_life_records, eps override it.

    >>> layer = BatchRenorm(3, preset="paper", half_life_records=500.0)
    >>> layer(torch.zeros(1, 3)).shape, int(layer.moments.n_records)
    (torch.Size([1, 3]), 1)
    """

    def __init__(
        self,
        num_features: int,
        *,
        dims: int = 1,
        preset: str | RenormPreset = "stream",
        r_max: float | None = None,
        d_max: float | None = None,
        half_life_records: float | None = None,
        eps: float | None = None,
        affine: bool = True,
    ) -> None:
        if isinstance(preset, str):
            if preset not in RENORM_PRESETS:
                raise ConfigError(f"batch_renorm: preset is {preset!r}; known presets: {', '.join(RENORM_PRESETS)}.")
            preset = RENORM_PRESETS[preset]
        own: dict[str, Any] = {"r_max": r_max, "d_max": d_max, "half_life_records": half_life_records, "eps": eps}
        preset = replace(preset, **{name: value for name, value in own.items() if value is not None})
        super().__init__(num_features, dims=dims, eps=preset.eps, affine=affine)
        self.preset = preset
        self.moments = RunningMoments(num_features, half_life_records=preset.half_life_records)
        self._last: tuple[tuple[Tensor, Tensor] | Tensor, float, float, int] | None = None

    def normalise_batch(self, x: Tensor) -> Tensor:
        weight, bias = self.affine_part()
        moments: Any = self._modules["moments"]  # not self.moments: nn.Module's look-up takes a microsecond
        if kernel_takes(x, weight, bias, moments):
            return fused_renorm(x, weight, bias, self, moments)
        return _Renormalise.apply(x, weight, bias, self)

    def batch_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance per channel, every record alike."""
        mean_NC, var_NC = record_moments(x)
        if var_NC is None:  # one fused sweep; torch.var_mean over the records is twenty times slower
            return torch.batch_norm_update_stats(x, None, None, 0.0)
        mean_B = mean_NC.mean(0)
        return mean_B, (mean_NC - mean_B).square_().add_(var_NC).mean(0)

    def correction(self, mean_B: Tensor, var_B: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """r, d and 1/std_B of a batch of n records, each (C,)."""
        moments = self.moments
        r_max, d_max = self.preset.limits(int(moments.n_records))
        inverse_std_B = (var_B + self.eps).rsqrt_()
        inverse_std = (moments.var + self.eps).rsqrt_()
        r = inverse_std / inverse_std_B
        d = (mean_B - moments.mean).mul_(inverse_std)
        self.remember((r, d), r_max, d_max, n)
        return r.clamp(1 / r_max, r_max), d.clamp(-d_max, d_max), inverse_std_B

    def learn_weighted(self, u: Tensor, weight_N: Tensor) -> None:
        self.moments.update(u, weight_N)

    def remember(self, r_d: tuple[Tensor, Tensor] | Tensor, r_max: float, d_max: float, n: int) -> None:
        """r and d of the last batch before their limits, for `drift`: the first two rows of what is handed over."""
        last = (r_d, r_max, d_max, n)
        object.__setattr__(self, "_last", last)  # nn.Module's own takes longer than a torch operation

    def normalise_weighted(self, x: Tensor, weight_N: Tensor) -> Tensor:
        mean_B, var_B = weighted_moments(x, weight_N)
        with torch.no_grad():
            r, d, _ = self.correction(mean_B, var_B, len(x))
            if self.learning:
                self.learn_usable(x, weight_N)
        scale, shift = (var_B + self.eps).rsqrt() * r, d
        if self.weight is not None and self.bias is not None:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (x - self.per_channel(x, mean_B)) * self.per_channel(x, scale) + self.per_channel(x, shift)

    def normalise_inference(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.moments.mean, self.moments.var, self.weight, self.bias, False, 0.0, self.eps)

    def set_moments(self, mean_C: Tensor, var_C: Tensor, n_records: int) -> None:
        self.moments.set(mean_C, var_C, n_records)

    def drift(self) -> NormDrift | None:
        """Of the last batch against the moments: `usual` is unknown, it depends on the values in that batch."""
        if self._last is None:
            return None
        (r, d, *_), r_max, d_max, n = self._last
        clipped = (d.abs() > d_max) | (r > r_max) | (r < 1 / r_max)
        d_square, log_r = d.square(), r.log()
        return NormDrift(
            distance=float((d_square + 2 * log_r.square()).mean()),  # ln(var_B / var) = 2 ln r
            usual=None,
            clipped=float(clipped.double().mean()),
            fast_share=None,
            shift=sqrt(n * float(d_square.mean())),
            scale=float(log_r.mean().exp_()),
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r_max={self.preset.r_max}, d_max={self.preset.d_max}"


class _Renormalise(torch.autograd.Function):
    """Two passes of torch's fused batch norm: with r and d constant, renormalising is a batch norm of another affine
    part (weight * r, weight * d + bias), forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: BatchRenorm) -> Tensor:
        mean_B, var_B = layer.batch_moments(x)
        r, d, inverse_std_B = layer.correction(mean_B, var_B, len(x))
        if layer.learning:
            if isfinite(float(var_B.sum())):
                layer.moments.learn(x)
            else:
                layer.learn_usable(x)
        scale = r if weight is None else weight * r
        shift = d if weight is None or bias is None else torch.addcmul(bias, weight, d)
        ctx.save_for_backward(x, scale, mean_B, inverse_std_B, r, d)
        ctx.eps, ctx.affine = layer.eps, weight is not None
        return torch.native_batch_norm(x, scale, shift, mean_B, var_B, False, 0.0, layer.eps)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean_B, inverse_std_B, r, d = ctx.saved_tensors
        dx, dscale, dshift = torch.ops.aten.native_batch_norm_backward(
            grads[0], x, scale, None, None, mean_B, inverse_std_B, True, ctx.eps, [True, ctx.affine, ctx.affine]
        )
        dweight = torch.addcmul(r * dscale, d, dshift) if ctx.affine else None
        return dx, dweight, dshift if ctx.affine else None, None
