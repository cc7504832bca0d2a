"""Adaptive batch renormalisation: the layer of this project, for streams that drift and batches of any size.

LayerNorm on each record, then Batch Renorm on moments of two horizons, blended by their distance. Training and
inference use one formula, with the moments from before the batch:

    u = (x - mean_record) / std_record            y = weight * xhat + bias,  xhat = (u - mean) / std
    mean = mean_slow + share (mean_fast - mean_slow), var likewise

`share` is near 0 at rest and grows to 1 while the fast moments leave the slow ones by more than they usually do; a
floor under it is learned from the gradient. What batch norm gets from its batch statistic, a gradient without the
directions along 1 and xhat, is done here in the backward pass, as far as the batch can tell: the gradient is regressed
on (1, xhat) with the batch's moments shrunk to (0, 1), more so the fewer independent values they have. With one value
there is hardly a projection, and the gradient lives; from sixteen on it is Batch Renorm's.

Suffixes: N = records, C = channels, P = positions of a record, H = horizons (slow, fast).
Source: this project.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stream_trainer.errors import ConfigError
from stream_trainer.norms.adaptive_in_torch import SHIFT_MAX, AdaptiveRenorm
from stream_trainer.norms.base import NormDrift, StatefulNorm
from stream_trainer.norms.fused import fused_adaptive_renorm
from stream_trainer.norms.horizons import TwoHorizonMoments
from stream_trainer.norms.kernel import compiled, kernel_takes

__all__ = ["AdaptiveBatchRenorm"]

# Weight of the prior (0, 1) to the power of the values in the batch: 3/4 at one, .32 at four, .01 at sixteen. With
# their square 64 flights worth five were believed, and the weather that they share was projected away: log-loss .489,
# not .452. The price: at twice the usual rate and in batches of 64 a drift costs up to 1.5 points more.
SHRINKAGE = 0.75
DRIFT_RATIO = 2.0  # horizons twice as far apart as usual are a drift
SIZE_MEMORY = 0.998  # per record, for the usual size of a batch
FLOOR_MEMORY = 0.99  # per record, for the power of the floor's gradient
FLOOR_LOGIT_START, FLOOR_LOGIT_MIN, FLOOR_LOGIT_MAX = -3.0, -5.0, 4.0


class _Control(NamedTuple):
    """The scalars of one layer, between batches. Drift is judged by the layer as a whole: one channel is too noisy."""

    log_distance: float = 0.0  # running mean of ln(distance between the horizons): what is usual
    correlation: float = 0.0  # between records of one batch: 0 shuffled, large where classes come in blocks
    records_paired: float = 0.0  # records behind `correlation`: those that came with others
    share: float = 0.0  # of the fast moments in the next batch
    usual_n: float = 0.0  # records a batch has usually; 0: none seen
    floor_logit: float = FLOOR_LOGIT_START
    floor_power: float = 0.0  # running mean square of the floor's gradient


SHARE = _Control._fields.index("share")


class AdaptiveBatchRenorm(StatefulNorm):
    """Adaptive batch renormalisation; formula above.

    A batch of one gives gradient to lower layers in dense nets too: at n = 1 it is 3 g / (4 + xhat^2) / std times the
    damping, never zero, and records far out weigh less.

    Args:
        half_life_records_slow, half_life_records_fast: the two memories (time constants of 10 240 and 64 records). With
            1024 what the flights of a week have in common was taken out of them, as if it were a drift: log-loss of a
            year .478 in batches of 256, and now .468; other streams do not tell (tests/benchmarks/norm_memory_*.md).
        learn_floor: step of the learned floor under the share of the fast moments; 0: no floor. Its gradient is mostly
            noise, so a long step is a random walk: with .1 networks on a year of flights lost what they knew, log-loss
            .479 against .444; with 0 nothing is learned of it, and elec2, which needs it, ends at .375 and not at .258.
        per_record: "layer", or "none" where a record has fewer than 8 values: of two values LayerNorm leaves a sign.
        damping: "batch" multiplies the gradient to lower layers by n/(n+1) sqrt(min(1, n / usual n)), for optimisers
            that step alike whatever n (SGD, Adam); "none" for one that counts records itself (stream_adamw): with
            both, small batches are damped twice.

    The scalars of the layer are taken to the host once in forward and once in backward: free on a CPU; on another
    device it waits for the batch. In training, `backward` moves state too (floor, usual n).

    >>> layer = AdaptiveBatchRenorm(16)
    >>> x_NC = torch.arange(16.0).reshape(1, 16).requires_grad_()
    >>> layer(x_NC).square().sum().backward()
    >>> bool(x_NC.grad.abs().sum() > 0), int(layer.moments.n_records)
    (True, 1)
    """

    exact = ("control",)
    control: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        dims: int = 1,
        half_life_records_slow: float = 7_097.5,
        half_life_records_fast: float = 44.0,
        learn_floor: float = 0.03,
        per_record: Literal["layer", "none"] = "layer",
        damping: Literal["batch", "none"] = "batch",
        eps: float = 1e-5,
        affine: bool = True,
    ) -> None:
        super().__init__(num_features, dims=dims, eps=eps, affine=affine)
        if per_record not in ("layer", "none") or damping not in ("batch", "none"):
            raise ConfigError(
                f"adaptive_batch_renorm: per_record is {per_record!r}, damping {damping!r}; "
                "expected per_record layer or none, and damping batch or none."
            )
        if learn_floor < 0:
            raise ConfigError(f"adaptive_batch_renorm: learn_floor is {learn_floor}; expected 0 (off) or more.")
        self.moments_of_input = per_record == "none"
        self.learn_floor, self.per_record, self.damping = learn_floor, per_record, damping
        self.moments = TwoHorizonMoments(
            num_features, half_life_records_slow=half_life_records_slow, half_life_records_fast=half_life_records_fast
        )
        self.register_buffer("control", torch.tensor(_Control(), dtype=torch.float64))
        self.memory_slow = -math.log(2) / half_life_records_slow
        self._last: tuple[tuple[Tensor, Tensor] | Tensor, float] | None = None

    def moments_input(self, x: Tensor) -> Tensor:
        return self.normalised_records(x)

    def normalised_records(self, x: Tensor) -> Tensor:
        """u: x after the normalisation of each record."""
        if self.per_record == "none":
            return x
        values = x.shape[1:].numel()
        self.check_values(x, values, 2, "Build the layer with per_record='none'.")
        return torch.native_layer_norm(x, x.shape[1:], None, None, self.eps)[0]

    def normalise_inference(self, x: Tensor) -> Tensor:
        share = self.control[SHARE].to(self.moments.mean.dtype)
        mean, var = (
            torch.lerp(slow_fast[0], slow_fast[1], share) for slow_fast in (self.moments.mean, self.moments.var)
        )
        return F.batch_norm(self.moments_input(x), mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def normalise_batch(self, x: Tensor) -> Tensor:
        if self.per_record == "layer":
            self.check_values(x, x.shape[1:].numel(), 2, "Build the layer with per_record='none'.")
        weight, bias = self.affine_part()
        moments: Any = self._modules["moments"]  # not self.moments: nn.Module's look-up takes a microsecond
        if kernel_takes(x, weight, bias, moments):
            return fused_adaptive_renorm(x, weight, bias, self, moments)
        return AdaptiveRenorm.apply(x, weight, bias, self, None)

    def normalise_weighted(self, x: Tensor, weight_N: Tensor) -> Tensor:
        return AdaptiveRenorm.apply(x, self.weight, self.bias, self, weight_N)

    def learn_weighted(self, u: Tensor, weight_N: Tensor) -> None:
        decay = self.moments.decays_weighted(weight_N)
        self.moments.merge(self.moments.measure(u, decay), decay)

    # ------------------------------------------------------------ state, moved by AdaptiveRenorm

    def read_control(self) -> _Control:
        return _Control._make(self.control.tolist())

    def write_control(self, control: _Control) -> None:
        buffer = self.control
        if buffer.is_cpu:
            buffer.numpy()[:] = control
        else:
            buffer.copy_(torch.from_numpy(np.array(control)))

    def remember(self, ratio_shift: tuple[Tensor, Tensor] | Tensor, n: float) -> None:
        """For `drift`: standard deviation and mean of the last batch, in running standard deviations."""
        object.__setattr__(self, "_last", (ratio_shift, n))  # nn.Module's own takes longer than a torch operation

    def observe(self, control: _Control, n: float, n_records: float, shift_power: float, distance: float) -> _Control:
        """Learn from the forward pass of a batch: the correlation of its records, and the share for the next batch.

        Args: n: records in the batch, by weight. n_records: seen so far, these included. shift_power: the batch's mean,
              in running standard deviations, squared; mean over channels. distance: between the horizons, the batch
              merged already.
        """
        memory_slow = self.memory_slow
        correlation, paired = control.correlation, control.records_paired
        if n >= 2:
            # Means of n independent records have variance 1/n; what is above comes from their correlation.
            z2 = min(1.0, shift_power)
            paired += n
            correlation += _mean_weight(n, paired, memory_slow) * ((n * z2 - 1) / (n - 1) - correlation)
        weight = _mean_weight(n, n_records, memory_slow)
        log_distance = control.log_distance + weight * (math.log(distance) - control.log_distance)
        share = max(self._floor(control.floor_logit), 1 - DRIFT_RATIO * math.exp(log_distance) / distance)
        return _Control(log_distance, correlation, paired, share, *control[4:])

    def _floor(self, logit: float) -> float:
        return 1 / (1 + math.exp(-logit)) if self.learn_floor else 0.0

    def damp(self, control: _Control, n: float) -> tuple[_Control, float]:
        """Share of the gradient that goes on to lower layers, and the usual n, this batch included."""
        if self.damping == "none":
            return control, 1.0
        usual_n = control.usual_n
        if self.learning:
            usual_n = usual_n + (1 - SIZE_MEMORY**n) * (n - usual_n) if usual_n else float(n)
            control = _Control(*control[:4], usual_n, *control[5:])
        return control, n / (n + 1) * math.sqrt(min(1.0, n / (usual_n or n)))

    def trust(self, n: float, positions: int, correlation: float) -> float:
        """s: how far the moments of a batch can be trusted, by the number of its values that are worth something."""
        effective = n / (1 + (n - 1) * min(1.0, max(0.0, correlation)))  # Kish's effective sample size
        return max(1e-9, 1 - SHRINKAGE ** (effective * positions))  # weights may add up to hardly anything

    def learn_floor_from(self, control: _Control, gradient: float, n: float) -> _Control:
        """One step down the loss, normalised by the power of its gradient: `gradient` is dL/dshare."""
        if not math.isfinite(gradient):  # the model skips such a step; remembered, it would stop the floor for ever
            return control
        power = control.floor_power + (1 - FLOOR_MEMORY**n) * (gradient * gradient - control.floor_power)
        logit = control.floor_logit - self.learn_floor * math.sqrt(n) * gradient / math.sqrt(power + 1e-20)
        return control._replace(floor_power=power, floor_logit=min(FLOOR_LOGIT_MAX, max(FLOOR_LOGIT_MIN, logit)))

    # ------------------------------------------------------------ from outside

    def set_moments(self, mean_C: Tensor, var_C: Tensor, n_records: int) -> None:
        self.moments.set(mean_C, var_C, n_records)

    def drift(self) -> NormDrift | None:
        """Between the horizons; both numbers contain the noise of a stream at rest."""
        if self._last is None:
            return None
        r_d, n = self._last
        control, moments = self.read_control(), self.moments
        if isinstance(r_d, Tensor) and kernel_takes(r_d, None, None, moments):
            distance, clipped, shift, scale = compiled.adaptive_drift(r_d.shape, r_d, moments._buffers, self.eps)
            distance += moments.noise
        else:
            ratio_C, shift_C = (row.cpu().numpy() for row in r_d)  # a tenth of the cost of torch's small operations
            distance = moments.distance(self.eps)
            clipped = np.count_nonzero(np.abs(shift_C) > SHIFT_MAX) / len(shift_C)
            shift = math.sqrt(float(shift_C @ shift_C) / len(shift_C))
            scale = math.exp(float(np.add.reduce(np.log(ratio_C))) / len(shift_C))
        return NormDrift(
            distance=distance,
            usual=math.exp(control.log_distance),
            clipped=clipped,
            fast_share=control.share,
            shift=math.sqrt(n) * shift,
            scale=scale,
        )

    def extra_repr(self) -> str:
        slow, fast = self.moments.half_lives
        return (
            f"{super().extra_repr()}, half_life_records_slow={slow:g}, half_life_records_fast={fast:g}, "
            f"learn_floor={self.learn_floor:g}, per_record={self.per_record}, damping={self.damping}"
        )


def _mean_weight(n: float, n_records: float, log_q: float) -> float:
    """Weight of the newest n records in a decaying mean of `n_records`, these included."""
    return math.expm1(n * log_q) / math.expm1(n_records * log_q)
