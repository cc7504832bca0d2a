"""torch's own batch normalisation, kept as the baseline that shows what small batches break.

Its memory moves by 0.1 a batch, whatever the number of records in it, and one value per channel has no variance: that
is refused, with the way out. Not here: the cure (batch_renorm.py, adaptive_batch_renorm.py).
Source: Ioffe, Szegedy, "Batch Normalization", 2015, arXiv:1502.03167.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_trainer.errors import ShapeError
from stream_trainer.norms.base import StatefulNorm, weighted_moments

__all__ = ["BatchNorm"]


class BatchNorm(StatefulNorm):
    """y = (x - mean_B) / sqrt(var_B + eps): results, buffers and state dict of torch.nn.BatchNorm1d/2d/3d.

    `step_weight` is the weight of the newest batch in the running statistics: torch calls it momentum.
    Like torch's it takes what comes: one record that is no number ends its memory.
    A batch of one: refused in training on (N, C); defined, with gradient to lower layers, where P >= 2.

    Raises: ShapeError: training with a single value per channel, or a wrong shape.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, num_features: int, *, dims: int = 1, step_weight: float = 0.1, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__(num_features, dims=dims, eps=eps, affine=affine)
        self.step_weight = step_weight
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def normalise_batch(self, x: Tensor) -> Tensor:
        n, positions = x.shape[0], x[0, 0].numel()
        if n * positions < 2:
            raise ShapeError(
                f"BatchNorm cannot train on input {tuple(x.shape)}: expected 2 or more values per channel, got "
                f"{n * positions}: a single value has no variance. Use norm `adaptive_batch_renorm`, `layer` or "
                "`group`, which take batches of any size; convert_norms(model, name) exchanges the layers of a network."
            )
        if not self.learning:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, self.step_weight, self.eps
        )

    def normalise_weighted(self, x: Tensor, weight_N: Tensor) -> Tensor:
        values = float(weight_N.sum()) * x[0, 0].numel()
        if values <= 1:
            raise ShapeError(
                f"BatchNorm cannot train on weights that add up to {values:g} value(s) per channel; expected more than "
                "1. Use norm `adaptive_batch_renorm`, which takes batches of any size."
            )
        mean_B, var_B = weighted_moments(x, weight_N)
        if self.learning:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean_B, self.step_weight)
                self.running_var.lerp_(var_B * (values / (values - 1)), self.step_weight)
        xhat = (x - self.per_channel(x, mean_B)) * self.per_channel(x, (var_B + self.eps).rsqrt())
        return self.affine(xhat)

    def normalise_inference(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def set_moments(self, mean_C: Tensor, var_C: Tensor, n_records: int) -> None:
        self.running_mean.copy_(mean_C)
        self.running_var.copy_(var_C)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, step_weight={self.step_weight}"
