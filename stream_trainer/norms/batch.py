"""torch's own batch normalisation, kept as the baseline that shows what small batches break.

Its memory moves by 0.1 a batch, whatever the number of records in it, and one value per channel has no variance: that
is refused, with the way out. Not here: the cure (batch_renorm.py, adaptive_batch_renorm.py).
Source: Ioffe, Szegedy, "Batch Normalization", 2015, arXiv:1502.03167.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_trainer.errors import ShapeError
from stream_trainer.norms.base import StatefulNorm

__all__ = ["BatchNorm"]


class BatchNorm(StatefulNorm):
    """y = (x - mean_B) / sqrt(var_B + eps): results, buffers and state dict of torch.nn.BatchNorm1d/2d/3d.

    `step_weight` is the weight of the newest batch in the running statistics: torch calls it momentum.
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

    def normalise_inference(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def set_moments(self, mean_C: Tensor, var_C: Tensor, n_records: int) -> None:
        self.running_mean.copy_(mean_C)
        self.running_var.copy_(var_C)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, step_weight={self.step_weight}"
