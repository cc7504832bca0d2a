"""The network for tables: a few dense layers over everything a record holds, side by side."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stream_trainer.errors import ConfigError
from stream_trainer.models.networks.inputs import columns_width, embedding_tables, read_columns
from stream_trainer.models.networks.layers import NEED_POSITIONS, Normalised
from stream_trainer.schema import InputWidths

__all__ = ["MLP"]


class MLP(nn.Module):
    """Numbers, embedded categories and flattened arrays side by side, then Linear -> norm -> ReLU -> dropout, repeated.

    Args:
        widths, outputs: of the inputs, and how many numbers come out per record.
        hidden: widths of the hidden layers; (128, 64) is ample for tables and still one millisecond a step.
        norm, norm_options: a layer of `stream_trainer.norms` before each ReLU.
        dropout: 0 by default: each record is seen once, so there is little to over-fit.
        embedding_dim: of every category; None: min(16, ceil(1.6 width^¼)): 4 for 32 values, 13 for 4096.
        sparse_embeddings: gradients name the rows they are of, so that a step costs what the batch touches and not
            what the table holds. Needs an optimizer that takes them: stream_adamw, or sgd without momentum.

    Raises: ConfigError: a norm that needs positions; dense layers have none.

    >>> net = MLP(InputWidths(numbers=3, categories=(10,)), outputs=2, hidden=(8,), norm="none")
    >>> net(torch.zeros(1, 3), torch.zeros(1, 1, dtype=torch.int64)).shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        widths: InputWidths,
        outputs: int,
        *,
        hidden: Sequence[int] = (128, 64),
        norm: str = "adaptive_batch_renorm",
        norm_options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        embedding_dim: int | None = None,
        sparse_embeddings: bool = False,
    ) -> None:
        super().__init__()
        if norm in NEED_POSITIONS:
            raise ConfigError(
                f"net 'mlp': norm {norm!r} normalises over the positions of an image or a sequence; a dense layer has "
                "none. Take adaptive_batch_renorm, layer or group."
            )
        self._widths = widths
        self.embeddings = embedding_tables(widths, embedding_dim, sparse_embeddings)
        width = columns_width(widths, self.embeddings) + sum(map(math.prod, widths.arrays))
        normalised = Normalised(norm=norm, options=norm_options)
        self.body = normalised.head(width, hidden, outputs, dropout=dropout)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs as in the package's docstring; returns (N, outputs)."""
        columns, arrays = read_columns(self._widths, self.embeddings, inputs)
        columns += [array.flatten(start_dim=1) for array in arrays]
        return self.body(columns[0] if len(columns) == 1 else torch.cat(columns, dim=1))
