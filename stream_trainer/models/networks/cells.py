"""GRU and LSTM layers with layer normalisation inside the cell: of what enters the gates, at each step of each record.

    LSTM: i, f, g, o = LN(W x_t) + LN(U h) + b,  c = s(f) c + s(i) tanh(g),  h = s(o) tanh(LN(c))
    GRU:  r, z, n_x = LN(W x_t) + b,  r_h, z_h, n_h = LN(U h),  r = s(r + r_h),  z = s(z + z_h)
          h = (1 - z) tanh(n_x + r n_h) + z h

Legend: N = records, T = time steps, H = width, s = sigmoid. The two sums into the gates are normalised apart, for their
scales have nothing to do with each other. No memory: training and inference are one. Weights start as torch's GRU and
LSTM, uniform within 1/sqrt(H); the forget gate's b starts at 1, every other at 0.
Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, arXiv:1607.06450, equations 20 to 22 and its supplement.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["LayerNormGRU", "LayerNormLSTM"]


class _LayerNormCell(nn.Module):
    """What both have: the weights of all gates in one matrix, and a layer norm for each of the two sums."""

    def __init__(self, width: int, hidden: int, gates: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.of_input = nn.Linear(width, gates * hidden, bias=False)
        self.of_state = nn.Linear(hidden, gates * hidden, bias=False)
        for linear in (self.of_input, self.of_state):
            nn.init.uniform_(linear.weight, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))
        self.norm_input = nn.LayerNorm(gates * hidden)  # its bias is the b of the formulas
        self.norm_state = nn.LayerNorm(gates * hidden, bias=False)

    def _inputs(self, x_NTF: Tensor) -> tuple[Tensor, ...]:
        """What the input sends to the gates: of all time steps at once, one (N, gates H) a step."""
        return self.norm_input(self.of_input(x_NTF)).unbind(1)


class LayerNormGRU(_LayerNormCell):
    """One GRU layer, called like `nn.GRU(batch_first=True)`: (N, T, F) -> (N, T, H) and the last state (N, H).

    >>> LayerNormGRU(3, 4)(torch.zeros(1, 5, 3))[0].shape
    torch.Size([1, 5, 4])
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, gates=3)

    def forward(self, x_NTF: Tensor) -> tuple[Tensor, Tensor]:
        h = x_NTF.new_zeros(len(x_NTF), self.hidden)
        states = []
        for sent in self._inputs(x_NTF):
            gates_x, candidate_x = sent.split([2 * self.hidden, self.hidden], dim=1)
            gates_h, candidate_h = self.norm_state(self.of_state(h)).split([2 * self.hidden, self.hidden], dim=1)
            reset, keep = torch.sigmoid(gates_x + gates_h).chunk(2, dim=1)
            h = torch.lerp(torch.tanh(candidate_x + reset * candidate_h), h, keep)
            states.append(h)
        return torch.stack(states, dim=1), h


class LayerNormLSTM(_LayerNormCell):
    """One LSTM layer, called like `nn.LSTM(batch_first=True)`: (N, T, F) -> (N, T, H) and the last state (N, H).

    >>> LayerNormLSTM(3, 4)(torch.zeros(1, 5, 3))[0].shape
    torch.Size([1, 5, 4])
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, gates=4)
        self.norm_cell = nn.LayerNorm(hidden)
        nn.init.ones_(self.norm_input.bias.data[hidden : 2 * hidden])  # in the order input, forget, cell, output

    def forward(self, x_NTF: Tensor) -> tuple[Tensor, Tensor]:
        h = c = x_NTF.new_zeros(len(x_NTF), self.hidden)
        states = []
        for sent in self._inputs(x_NTF):
            i, f, g, o = (sent + self.norm_state(self.of_state(h))).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm_cell(c))
            states.append(h)
        return torch.stack(states, dim=1), h
