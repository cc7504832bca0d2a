"""Batch renormalisation over several workers: their batches count as one, however the records fall to them.

Moments are merged by counts, so batches may differ in size and be empty. The running moments learn the batches one
after another in the order of the workers, and come out equal on all of them. Who talks to whom is not known here: the
layer is handed a `gather`, alone by default. W = workers, other suffixes as in moments.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from stream_trainer.errors import ConfigError
from stream_trainer.norms.batch_renorm import BatchRenorm, RenormPreset
from stream_trainer.norms.decay import decay_of_batch
from stream_trainer.norms.moments import record_moments

__all__ = ["Gather", "SyncBatchRenorm", "gather_over"]

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
        """As BatchRenorm, but for weights of records: refused, the counts of the workers are their weights."""
        if record_weight_N is not None:
            raise ConfigError(
                "sync takes no record weights: counts are its weights. Use batch_renorm for padded batches."
            )
        return super().forward(x)

    def normalise(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.normalise_inference(x)
        return _SyncRenormalise.apply(x, self.weight, self.bias, self)

    def exchange(self, x: Tensor) -> list["_WorkerMoments"]:
        """The moments of every worker's batch, empty ones left out."""
        channels, n = self.num_features, len(x)
        own = x.new_zeros(4 * channels + 2)
        if n:
            decayed_N = decay_of_batch(n, self.moments.half_life_records, x).share_N
            own[:-2] = torch.cat([*_weighted(x, torch.full_like(decayed_N, 1 / n)), *_weighted(x, decayed_N)])
            own[-2], own[-1] = n, x.shape[2:].numel()
        workers = []
        for row in self.gather(own):
            n_worker, positions = (int(count) for count in row[-2:])
            if n_worker:
                workers.append(_WorkerMoments(n_worker, n_worker * positions, *row[:-2].view(4, channels)))
        return workers


class _WorkerMoments(NamedTuple):
    n: int
    n_values: int  # per channel
    mean_C: Tensor  # every record alike
    var_C: Tensor
    mean_decayed_C: Tensor  # by arrival order
    var_decayed_C: Tensor


def _weighted(x: Tensor, share_N: Tensor) -> tuple[Tensor, Tensor]:
    mean_NC, var_NC = record_moments(x)
    mean = share_N @ mean_NC
    scatter_NC = (mean_NC - mean).square_()
    return mean, share_N @ (scatter_NC if var_NC is None else scatter_NC + var_NC)


def _union(workers: list[_WorkerMoments]) -> tuple[Tensor, Tensor, int]:
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
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: SyncBatchRenorm) -> Tensor:
        workers = layer.exchange(x)
        ctx.layer, ctx.affine = layer, weight is not None
        if not workers:  # no record anywhere: nothing to learn, but backward must still meet the others
            ctx.n_values = 0
            ctx.save_for_backward(x, x.new_zeros(0) if weight is None else weight)
            return x.clone()
        mean_B, var_B, ctx.n_values = _union(workers)
        r, d, inverse_std_B = layer.correction(mean_B, var_B, sum(worker.n for worker in workers))
        if layer.learning:
            for worker in workers:
                layer.moments.merge(worker.mean_decayed_C, worker.var_decayed_C, worker.n)
        scale = r if weight is None else weight * r
        shift = d if weight is None or bias is None else torch.addcmul(bias, weight, d)
        ctx.save_for_backward(x, scale, mean_B, inverse_std_B, r, d)
        return F.batch_norm(x, mean_B, var_B, scale, shift, False, 0.0, layer.eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), layer = grads, ctx.layer
        if ctx.n_values == 0:
            x, weight = ctx.saved_tensors
            layer.gather(x.new_zeros(2, layer.num_features))
            zero = torch.zeros_like(weight) if ctx.affine else None
            return dy, zero, zero, None
        x, scale, mean_B, inverse_std_B, r, d = ctx.saved_tensors
        axes = (0, *range(2, x.dim()))
        xhat = (x - layer.per_channel(x, mean_B)) * layer.per_channel(x, inverse_std_B)
        own = torch.stack([dy.sum(axes), (dy * xhat).sum(axes)])
        mean_dy, mean_dy_xhat = (layer.gather(own).sum(0) / ctx.n_values).unbind()
        projected = dy - layer.per_channel(x, mean_dy) - xhat * layer.per_channel(x, mean_dy_xhat)
        dx = projected * layer.per_channel(x, scale * inverse_std_B)
        dshift, dscale = own.unbind()
        return dx, *((torch.addcmul(r * dscale, d, dshift), dshift) if ctx.affine else (None, None)), None
