"""Batch renormalisation over several workers: their batches count as one, however the records fall to them.

Moments are merged by counts, so batches may differ in size and be empty. The running moments learn the batches one
after another in the order of the workers, and come out equal on all of them. Who talks to whom is not known here: the
layer is handed a `gather`, alone by default. W = workers, other suffixes as in moments.py.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from stream_trainer.norms.base import usable_records
from stream_trainer.norms.batch_renorm import BatchRenorm, RenormPreset
from stream_trainer.norms.decay import decay_of_batch, decay_of_weighted
from stream_trainer.norms.moments import record_moments
from stream_trainer.norms.precision import in_float32

__all__ = ["Gather", "SyncBatchRenorm", "gather_over"]

COUNTS = 3  # numbers that go with the moments of a worker: its records by weight, its records, positions of each

Gather: TypeAlias = Callable[[Tensor], Tensor]
"""(*shape) of this worker -> (W, *shape) of all, in the same order everywhere. Called by all workers, or by none."""


def alone(tensor: Tensor) -> Tensor:
    """The gather of a single worker."""
    return tensor.unsqueeze(0)


def gather_over(group: "dist.ProcessGroup | None" = None) -> Gather:
    """A gather by torch.distributed, over the default process group or another."""

    def gather(tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, tensor.contiguous(), group=group)
        return torch.stack(parts)

    return gather


class SyncBatchRenorm(BatchRenorm):
    """BatchRenorm of the union of all workers' batches; with one worker, BatchRenorm.

    One exchange in forward, one in backward: all workers must run both equally often, with empty batches too.
    A batch of one: gives no gradient to lower dense layers if it is the only record of all workers.
    Gradients of weight and bias are this worker's part: to add them up is the optimiser's side, as for any parameter.

    >>> SyncBatchRenorm(3, r_max=2.0)(torch.zeros(4, 3)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        num_features: int,
        *,
        dims: int = 1,
        gather: Gather = alone,
        preset: str | RenormPreset = "stream",
        r_max: float | None = None,
        d_max: float | None = None,
        half_life_records: float | None = None,
        eps: float | None = None,
        affine: bool = True,
    ) -> None:
        super().__init__(
            num_features,
            dims=dims,
            preset=preset,
            r_max=r_max,
            d_max=d_max,
            half_life_records=half_life_records,
            eps=eps,
            affine=affine,
        )
        self.gather = gather

    def forward(self, x: Tensor, record_weight_N: Tensor | None = None) -> Tensor:
        """As BatchRenorm. Who has no record that counts, or none at all, still meets the others."""
        if record_weight_N is None or not self.training or self.gather is alone:
            return super().forward(x, record_weight_N)
        self.check(x)
        self.check_weights(x, record_weight_N)
        return in_float32(lambda wide_x: self.normalise_weighted(wide_x, record_weight_N.to(wide_x)), x)

    def normalise(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.normalise_inference(x)
        if self.gather is alone:  # nobody to meet, also with an empty batch
            return super().normalise(x)
        return _SyncRenormalise.apply(x, self.weight, self.bias, self, None)

    def normalise_weighted(self, x: Tensor, weight_N: Tensor) -> Tensor:
        return _SyncRenormalise.apply(x, self.weight, self.bias, self, weight_N)

    def exchange(self, x: Tensor, weight_N: Tensor | None) -> list["_WorkerMoments"]:
        """The moments of every worker's batch, those without a record that counts left out."""
        channels = self.num_features
        own = x.new_zeros(4 * channels + COUNTS)
        if len(x):
            self.measure(x, weight_N, own)
            if not math.isfinite(float(own.sum())):
                # Before it is told to anybody: what the others add it to would be no number either.
                usable_N = usable_records(x)
                self.records_refused += int((~usable_N).sum())
                self.measure(x, usable_N.to(x.dtype) if weight_N is None else weight_N.masked_fill(~usable_N, 0), own)
        workers = []
        for row, (n, n_records, positions) in ((row, row[-COUNTS:].tolist()) for row in self.gather(own)):
            if n > 0:
                workers.append(_WorkerMoments(n, int(n_records), n * positions, *row[:-COUNTS].view(4, channels)))
        return workers

    def measure(self, x: Tensor, weight_N: Tensor | None, own: Tensor) -> None:
        """Into `own`: mean and variance of this worker's batch, every record alike and by arrival order; its counts."""
        n, half_life = len(x), self.moments.half_life_records
        mean_NC, var_NC = record_moments(x)
        if weight_N is None:
            decayed_N = decay_of_batch(n, half_life, x).share_N
            share_2N = torch.stack([torch.full_like(decayed_N, 1 / n), decayed_N])
            count, n_records = float(n), n
        else:
            share_2N = torch.stack([decay_of_weighted(weight_N.double(), h)[0] for h in (None, half_life)]).to(x.dtype)
            count, n_records = float(weight_N.sum()), int((weight_N > 0).sum())
            absent_N1 = (weight_N == 0).view(-1, 1)
            mean_NC = mean_NC.masked_fill(absent_N1, 0)
            var_NC = None if var_NC is None else var_NC.masked_fill(absent_N1, 0)
        moments = own[:-COUNTS].view(2, 2, -1)  # alike and decayed, mean and variance
        for share_N, (mean_C, var_C) in zip(share_2N, moments, strict=True):
            torch.mv(mean_NC.t(), share_N, out=mean_C)
            scatter_NC = (mean_NC - mean_C).square_()
            torch.mv((scatter_NC if var_NC is None else scatter_NC.add_(var_NC)).t(), share_N, out=var_C)
        own[-COUNTS:] = torch.tensor([count, n_records, x.shape[2:].numel()], dtype=own.dtype)


class _WorkerMoments(NamedTuple):
    n: float  # by weight
    n_records: int
    n_values: float  # per channel
    mean_C: Tensor  # every record alike
    var_C: Tensor
    mean_decayed_C: Tensor  # by arrival order
    var_decayed_C: Tensor


def _union(workers: list[_WorkerMoments]) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance of all values of all workers, and their number per channel."""
    n_values = sum(worker.n_values for worker in workers)
    mean_B = torch.stack([worker.mean_C * (worker.n_values / n_values) for worker in workers]).sum(0)
    var_B = torch.stack(
        [(worker.var_C + (worker.mean_C - mean_B).square()) * (worker.n_values / n_values) for worker in workers]
    ).sum(0)
    return mean_B, var_B, n_values


class _SyncRenormalise(torch.autograd.Function):
    """As batch_renorm's, with the sums over the batch taken over all workers."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        layer: SyncBatchRenorm,
        weight_N: Tensor | None,
    ) -> Tensor:
        workers = layer.exchange(x, weight_N)
        ctx.layer, ctx.affine = layer, weight is not None
        if not workers:  # no record anywhere: nothing to learn, but backward must still meet the others
            ctx.n_values = 0
            ctx.save_for_backward(x, x.new_zeros(0) if weight is None else weight)
            return x.clone()
        mean_B, var_B, ctx.n_values = _union(workers)
        r, d, inverse_std_B = layer.correction(mean_B, var_B, sum(worker.n_records for worker in workers))
        if layer.learning:
            for worker in workers:
                layer.moments.merge(worker.mean_decayed_C, worker.var_decayed_C, worker.n, worker.n_records)
        scale = r if weight is None else weight * r
        shift = d if weight is None or bias is None else torch.addcmul(bias, weight, d)
        ctx.save_for_backward(x, scale, mean_B, var_B, inverse_std_B, r, d, weight_N)
        return F.batch_norm(x, mean_B, var_B, scale, shift, False, 0.0, layer.eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), layer = grads, ctx.layer
        if ctx.n_values == 0:
            x, weight = ctx.saved_tensors
            layer.gather(x.new_zeros(2, layer.num_features))
            zero = torch.zeros_like(weight) if ctx.affine else None
            return dy, zero, zero, None, None
        x, scale, mean_B, var_B, inverse_std_B, r, d, weight_N = ctx.saved_tensors
        dscale = dshift = x.new_zeros(layer.num_features)
        if len(x):  # sums of dy xhat and of dy, in one fused sweep, which an empty batch would stop
            _, dscale, dshift = torch.ops.aten.native_batch_norm_backward(
                dy, x, scale, mean_B, var_B, None, None, False, layer.eps, [False, True, True]
            )
        mean_dy, mean_dy_xhat = (layer.gather(torch.stack([dshift, dscale])).sum(0) / ctx.n_values).unbind()
        # dx = scale / std (dy - mean_dy - xhat mean_dy_xhat), the two taken out as often as the record counts.
        by_std, slope = scale * inverse_std_B, mean_dy_xhat * inverse_std_B
        constant = torch.addcmul(mean_dy, slope, mean_B, value=-1)
        taken = layer.per_channel(x, constant * by_std) + layer.per_channel(x, slope * by_std) * x
        if weight_N is not None:
            taken *= weight_N.view(-1, *[1] * (x.dim() - 1))
        dx = torch.addcmul(taken.neg_(), layer.per_channel(x, by_std), dy)
        return dx, *((torch.addcmul(r * dscale, d, dshift), dshift) if ctx.affine else (None, None)), None, None
