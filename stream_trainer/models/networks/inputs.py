"""How a network reads its inputs: columns of the table beside each other, and the one array that some are made for.

N = records.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stream_trainer.errors import ConfigError
from stream_trainer.schema import InputWidths

__all__ = ["beside", "columns_width", "embedding_tables", "only_array", "read_columns"]


def embedding_tables(widths: InputWidths, dimension: int | None, sparse: bool) -> nn.ModuleList:
    """One table a category, near zero: a value never seen before then says nothing, instead of something random.

    `dimension` None: min(16, ceil(1.6 width^¼)).
    """
    tables = nn.ModuleList()
    for width in widths.categories:
        table = nn.Embedding(width, dimension or min(16, math.ceil(1.6 * width**0.25)), sparse=sparse)
        nn.init.normal_(table.weight, std=0.1)
        tables.append(table)
    return tables


def columns_width(widths: InputWidths, tables: nn.ModuleList) -> int:
    """How many columns `read_columns` gives."""
    return widths.numbers + sum(table.embedding_dim for table in tables)  # type: ignore[misc]  # mypy sees Modules


def read_columns(
    widths: InputWidths, tables: nn.ModuleList, inputs: Sequence[Tensor]
) -> tuple[list[Tensor], Sequence[Tensor]]:
    """The arguments of `forward` as (numbers and embedded categories, each (N, width)) and the arrays after them."""
    columns = []
    if widths.numbers:
        columns.append(inputs[0])
        inputs = inputs[1:]
    if len(tables):
        category_CN = inputs[0].T
        columns += [table(category_N) for table, category_N in zip(tables, category_CN)]
        inputs = inputs[1:]
    return columns, inputs


def only_array(net: str, widths: InputWidths, forms: Sequence[str], dims: Sequence[int]) -> tuple[int, ...]:
    """The shape of the only array feature. Raises ConfigError: there is none, or several, or of other dims."""
    expected = f"net {net!r} reads exactly one array feature of shape {' or '.join(forms)}"
    if len(widths.arrays) != 1:
        found = f"{len(widths.arrays)}: {', '.join(str(list(shape)) for shape in widths.arrays)}"
        raise ConfigError(
            f"{expected}; the schema has {found if widths.arrays else 'none'}. Declare one as {{array: {forms[0]}}}, "
            "or take net: mlp, which reads any number of arrays, each as one row of numbers."
        )
    shape = widths.arrays[0]
    if len(shape) not in dims:
        raise ConfigError(
            f"{expected}; the schema has one of shape {list(shape)}. Declare it, and send it, in such a shape, or take "
            "net: mlp, which reads every shape as one row of numbers."
        )
    return shape


def beside(features: Tensor, columns: list[Tensor]) -> Tensor:
    """What was made of the array, and the columns of the table after it."""
    return torch.cat([features, *columns], dim=1) if columns else features
