"""Continual Normalization: group normalisation of each record, then normalisation over records.

The paper puts batch norm second, which neither survives a batch of one nor a drift. Here it is adaptive batch
renormalisation, without its own LayerNorm: the groups have done that.

Source: Pham, Liu, Hoi, "Continual Normalization: Rethinking Batch Normalization for Online Continual Learning", 2022,
arXiv:2203.16102.
"""

from typing import Literal

from torch import Tensor

from stream_trainer.norms.adaptive_batch_renorm import AdaptiveBatchRenorm
from stream_trainer.norms.per_record import GroupNorm

__all__ = ["ContinualNorm"]


class ContinualNorm(AdaptiveBatchRenorm):
    """GroupNorm without affine part, then AdaptiveBatchRenorm; `groups` None takes `group_count`.

    A batch of one gives gradient to lower layers.

    >>> ContinualNorm(8, dims=2).state_dict().keys() == AdaptiveBatchRenorm(8, dims=2).state_dict().keys()
    True
    """

    def __init__(
        self,
        num_features: int,
        *,
        dims: int = 1,
        groups: int | None = None,
        half_life_records_slow: float = 709.4,
        half_life_records_fast: float = 44.0,
        learn_floor: float = 0.03,
        damping: Literal["batch", "none"] = "batch",
        eps: float = 1e-5,
        affine: bool = True,
    ) -> None:
        super().__init__(
            num_features,
            dims=dims,
            half_life_records_slow=half_life_records_slow,
            half_life_records_fast=half_life_records_fast,
            learn_floor=learn_floor,
            per_record="none",
            damping=damping,
            eps=eps,
            affine=affine,
        )
        self.group = GroupNorm(num_features, dims=dims, groups=groups, eps=eps, affine=False)

        self.moments_of_input = False

    def moments_input(self, x: Tensor) -> Tensor:
        return self.group.normalise(x)

    def normalise_batch(self, x: Tensor) -> Tensor:
        return super().normalise_batch(self.group.normalise(x))

    def normalise_weighted(self, x: Tensor, weight_N: Tensor) -> Tensor:
        return super().normalise_weighted(self.group.normalise(x), weight_N)
