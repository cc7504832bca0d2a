"""Networks by name. Each is built from the widths of its inputs and the number of its outputs.

`forward(*inputs)` receives only the inputs that the schema has, in the order of `InputWidths`: numbers (N, F) float32,
categories (N, C) int64, then each array (N, *shape) float32; it returns (N, outputs). So with numbers alone, any
`nn.Sequential` will do. Every network here learns from a batch of one, whatever its norm.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stream_trainer.errors import ConfigError
from stream_trainer.norms import build_norm
from stream_trainer.norms.batch import BatchNorm
from stream_trainer.schema import InputWidths

__all__ = ["MLP", "NETWORKS", "build_network", "refuse_batch_norm"]


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
        self._has_numbers = widths.numbers > 0
        self.embeddings = nn.ModuleList(
            _embedding(width, embedding_dim or min(16, math.ceil(1.6 * width**0.25)), sparse_embeddings)
            for width in widths.categories
        )
        embedded = sum(table.embedding_dim for table in self.embeddings)  # type: ignore[misc]  # mypy sees Modules
        width = widths.numbers + embedded + sum(map(math.prod, widths.arrays))
        layers: list[nn.Module] = []
        for hidden_width in hidden:
            normalise = build_norm(norm, hidden_width, **(norm_options or {}))
            # A norm takes every constant away: a bias below it would be dead weight, its own shift does the work.
            layers += [nn.Linear(width, hidden_width, bias=not _shifts(normalise)), normalise, nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
            width = hidden_width
        self.body = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs as in the module docstring; returns (N, outputs)."""
        columns = []
        if self._has_numbers:
            columns.append(inputs[0])
            inputs = inputs[1:]
        if len(self.embeddings):
            category_CN = inputs[0].T
            columns += [table(category_N) for table, category_N in zip(self.embeddings, category_CN)]
            inputs = inputs[1:]
        columns += [array.flatten(start_dim=1) for array in inputs]
        return self.body(columns[0] if len(columns) == 1 else torch.cat(columns, dim=1))


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP}
"""Name -> what builds it: called with (widths, outputs, **options)."""


def build_network(name: str, widths: InputWidths, outputs: int, **options: Any) -> nn.Module:
    """Build a network by its name in the configuration; weights come from torch's current random state.

    Raises: ConfigError: no network of this name, no option of this name, or a value that cannot be.
    """
    if name not in NETWORKS:
        raise ConfigError(f"net is {name!r}; known networks: {', '.join(sorted(NETWORKS))}.")
    known = list(inspect.signature(NETWORKS[name]).parameters)[2:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"net {name!r} has no option {unknown[0]!r}; known options: {', '.join(sorted(known))}.")
    try:
        return NETWORKS[name](widths, outputs, **options)
    except ConfigError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"net {name!r} cannot be built with {options}: {error}.") from error


def refuse_batch_norm(network: nn.Module) -> None:
    """Raises ConfigError if a plain BatchNorm, ours or torch's, is inside: a batch of one has no variance."""
    for name, module in network.named_modules():
        if isinstance(module, (BatchNorm, nn.modules.batchnorm._BatchNorm)):
            raise ConfigError(
                f"The network has a {type(module).__name__} at {name!r}; it cannot learn from a batch of one, and "
                "batches have the size that arrived. In a network of ours set norm: adaptive_batch_renorm (or layer); "
                "in a module of yours set convert_norms: adaptive_batch_renorm, which exchanges every BatchNorm and "
                "keeps its weights."
            )


def _embedding(width: int, dimension: int, sparse: bool) -> nn.Embedding:
    """A table that starts near zero: a value never seen before then says nothing, instead of something random."""
    table = nn.Embedding(width, dimension, sparse=sparse)
    nn.init.normal_(table.weight, std=0.1)
    return table


def _shifts(norm: nn.Module) -> bool:
    return any(name in {"bias", "beta"} for name, _ in norm.named_parameters())
