"""Networks for sequences: stacked GRU or LSTM layers that read a window of time steps and answer after the last one.

Legend: N = records, T = time steps, F = features of a step, H = width of a layer.
Between the layers any norm may stand: it sees (N, H, T), a record with T values per channel, and the memory of a norm
still counts records. Inside the cell only layer normalisation may: the state of one step depends on the step before, so
moments over a batch would have to be kept for every step apart, they would differ from step to step and for every
length, and a step later than any in training would have none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from stream_trainer.errors import ConfigError
from stream_trainer.models.networks.cells import LayerNormGRU, LayerNormLSTM
from stream_trainer.models.networks.inputs import beside, columns_width, embedding_tables, only_array, read_columns
from stream_trainer.models.networks.layers import Normalised
from stream_trainer.schema import InputWidths

__all__ = ["GRU", "LSTM"]

STEPS_MIN = 4  # the fewest positions that every norm between layers accepts
CELL_NORMS = ("none", "layer")


class _Recurrent(nn.Module):
    """(Recurrent layer -> norm -> dropout) for each width of `hidden`, then the outputs from the last time step.

    Reads exactly one array feature, [time, features], or [time] for one number a step, of four steps or more. Numbers
    and categories, if the schema has any, join the last state before the outputs. All features of all steps share one
    scale: where their units differ by orders of magnitude, scale them before they are sent.

    Args:
        widths, outputs: of the inputs, and how many numbers come out per record.
        hidden: widths of the stacked layers.
        norm, norm_options: a layer of `stream_trainer.norms` after each recurrent layer, over records and time steps.
        norm_in_cell: "none", or "layer": layer normalisation of what enters the gates, step by step; some three times
            as slow, for torch's own layers cannot do it.
        dropout: after each recurrent layer; 0 by default, for each record is seen once.
        embedding_dim, sparse_embeddings: as of `MLP`.

    Raises: ConfigError: other inputs than these, or another norm inside the cell.
    """

    name: ClassVar[str]

    def __init__(
        self,
        widths: InputWidths,
        outputs: int,
        *,
        hidden: Sequence[int] = (64, 64),
        norm: str = "adaptive_batch_renorm",
        norm_options: Mapping[str, Any] | None = None,
        norm_in_cell: str = "none",
        dropout: float = 0.0,
        embedding_dim: int | None = None,
        sparse_embeddings: bool = False,
    ) -> None:
        super().__init__()
        self._check_cell(norm_in_cell)
        width = self._features(widths)
        if not hidden:
            raise ConfigError(f"net {self.name!r}: hidden is empty; expected the width of one or more layers.")
        self._widths = widths
        self.embeddings = embedding_tables(widths, embedding_dim, sparse_embeddings)
        normalised = Normalised(norm=norm, options=norm_options)
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for hidden_width in hidden:
            self.layers.append(self.build_layer(width, hidden_width, norm_in_cell))
            self.norms.append(normalised.build(hidden_width, dims=1))
            width = hidden_width
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width + columns_width(widths, self.embeddings), outputs)

    def build_layer(self, width: int, hidden: int, norm_in_cell: str) -> nn.Module:
        """One layer: (N, T, width) -> (N, T, hidden) and something that is not looked at."""
        raise NotImplementedError

    def _check_cell(self, norm_in_cell: str) -> None:
        if norm_in_cell not in CELL_NORMS:
            raise ConfigError(
                f"net {self.name!r}: norm_in_cell is {norm_in_cell!r}; expected none or layer. Moments over a batch "
                "inside the cell would differ at every time step and for every length, and a later step would have "
                "none. Set it as norm: there it stands between the layers, over records and time steps."
            )

    def _features(self, widths: InputWidths) -> int:
        shape = only_array(self.name, widths, ("[time, features]", "[time]"), (1, 2))
        if shape[0] < STEPS_MIN:
            raise ConfigError(
                f"net {self.name!r} needs {STEPS_MIN} time steps or more; the schema has an array of shape "
                f"{list(shape)}. Send [time, features] in this order and longer windows, or take net: mlp."
            )
        return shape[1] if len(shape) == 2 else 1

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs as in the package's docstring; returns (N, outputs)."""
        columns, (x,) = read_columns(self._widths, self.embeddings, inputs)
        x_NTH = x if x.dim() == 3 else x.unsqueeze(2)
        for layer, norm in zip(self.layers, self.norms):
            x_NTH = self.dropout(norm(layer(x_NTH)[0].transpose(1, 2))).transpose(1, 2)
        return self.head(beside(x_NTH[:, -1], columns))


class GRU(_Recurrent):
    """Stacked gated recurrent units; arguments, inputs and errors as said in `_Recurrent`.

    >>> import torch
    >>> net = GRU(InputWidths(numbers=0, arrays=((29, 12),)), outputs=9, norm_in_cell="layer")
    >>> net(torch.zeros(1, 29, 12)).shape
    torch.Size([1, 9])
    """

    name = "gru"

    def build_layer(self, width: int, hidden: int, norm_in_cell: str) -> nn.Module:
        return LayerNormGRU(width, hidden) if norm_in_cell == "layer" else nn.GRU(width, hidden, batch_first=True)


class LSTM(_Recurrent):
    """Stacked long short-term memory; arguments, inputs and errors as said in `_Recurrent`.

    Forget gates start open, at a bias of 1: a network that forgets from the start is slow to learn to remember.

    >>> import torch
    >>> net = LSTM(InputWidths(numbers=0, arrays=((20,),)), outputs=1)
    >>> net(torch.zeros(2, 20)).shape
    torch.Size([2, 1])
    """

    name = "lstm"

    def build_layer(self, width: int, hidden: int, norm_in_cell: str) -> nn.Module:
        if norm_in_cell == "layer":
            return LayerNormLSTM(width, hidden)
        layer = nn.LSTM(width, hidden, batch_first=True)
        for name, value in (("bias_ih_l0", 1.0), ("bias_hh_l0", 0.0)):
            forget = layer.get_parameter(name).data[hidden : 2 * hidden]  # in the order input, forget, cell, output
            nn.init.constant_(forget, value)
        return layer
