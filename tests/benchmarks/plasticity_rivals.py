"""Three published ways to keep a network able to learn, written from their formulas, for comparison only.

Legend: W = weights, W0 = their initial values, h = activations of a hidden unit, g = gradient of the mean loss.
    shrink and perturb   after Adam: W ← (1 - lr λ) W + s ξ, ξ standard normal, s² = 2 lr λ var(W0), which keeps the
                         initial spread (Ash and Adams 2020, arXiv:1910.08475)
    continual backprop   u ← .99 u + .01 |h| Σ|w_out| per unit; of the units older than `mature_steps` a share
                         `replaced` a step, those of least u, are drawn anew, with outgoing weights of 0 (Dohare et
                         al., Nature 2024)
    UPGD                 W ← (1 - lr λ) W - 2 lr (g + s ξ) (1 - sigmoid(U / max U)), U a running mean of -g W
                         (Elsayed and Mahmood 2024, arXiv:2404.00781)
Not for use in the product: they count steps, not records, and the second one knows one kind of network only.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["UPGD", "ContinualBackprop", "ShrinkAndPerturb"]


class ShrinkAndPerturb:
    """Adam, then a little decay and matched noise on the matrices."""

    def __init__(self, net: nn.Module, *, lr: float, decay: float) -> None:
        self._adam = torch.optim.Adam(net.parameters(), lr=lr)
        self._kept = 1 - lr * decay
        self._noise = [
            (weight, (2 * lr * decay) ** 0.5 * weight.detach().std().item())
            for weight in net.parameters()
            if weight.ndim >= 2
        ]

    @torch.no_grad()
    def step(self, records: int) -> None:
        self._adam.step()
        for weight, scale in self._noise:
            weight.mul_(self._kept).add_(torch.randn_like(weight), alpha=scale)


class ContinualBackprop:
    """Adam, and now and then a new unit for the least useful one; for Linear, norm, ReLU, repeated, then Linear."""

    def __init__(self, net: nn.Module, *, lr: float, replaced: float, mature_steps: int) -> None:
        self._adam = torch.optim.Adam(net.parameters(), lr=lr)
        self._replaced, self._mature_steps = replaced, mature_steps
        linears = [module for module in net.modules() if isinstance(module, nn.Linear)]
        units = [module for module in net.modules() if isinstance(module, nn.ReLU)]
        self._layers = [_Units(below, above) for below, above in pairwise(linears)]
        for unit, layer in zip(units, self._layers, strict=True):
            unit.register_forward_hook(layer.see)

    @torch.no_grad()
    def step(self, records: int) -> None:
        self._adam.step()
        for layer in self._layers:
            layer.age_U += 1
            layer.utility_U.mul_(0.99).add_(layer.active_U * layer.above.weight.abs().sum(dim=0), alpha=0.01)
            mature = torch.nonzero(layer.age_U > self._mature_steps)[:, 0]
            layer.due += self._replaced * len(mature)
            if layer.due >= 1 and len(mature):
                number = int(layer.due)
                layer.due -= number
                fair_U = layer.utility_U / (1 - 0.99**layer.age_U)
                layer.renew(mature[fair_U[mature].argsort()[:number]], self._adam)


class _Units:
    """The units between two Linears."""

    def __init__(self, below: nn.Linear, above: nn.Linear) -> None:
        self.below, self.above = below, above
        self.utility_U = torch.zeros(below.out_features)
        self.age_U = torch.zeros(below.out_features)
        self.active_U = torch.zeros(below.out_features)
        self.due = 0.0  # units to renew; a whole one at a time

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...], h_NU: Tensor) -> None:
        if module.training:
            self.active_U = h_NU.detach().abs().mean(dim=0)

    def renew(self, which: Tensor, adam: torch.optim.Adam) -> None:
        drawn = nn.Linear(self.below.in_features, len(which), bias=self.below.bias is not None)
        self.below.weight[which] = drawn.weight
        self.above.weight[:, which] = 0
        for moment in ("exp_avg", "exp_avg_sq"):
            adam.state[self.below.weight][moment][which] = 0
            adam.state[self.above.weight][moment][:, which] = 0
        if self.below.bias is not None:
            self.below.bias[which] = 0
        self.utility_U[which], self.age_U[which] = 0, 0


class UPGD:
    """Gradient descent that leaves useful weights alone and shakes the others."""

    def __init__(self, net: nn.Module, *, lr: float, decay: float, memory: float, noise: float) -> None:
        self._weights = list(net.parameters())
        self._utilities = [torch.zeros_like(weight) for weight in self._weights]
        self._lr, self._decay, self._memory, self._noise = lr, decay, memory, noise

    @torch.no_grad()
    def step(self, records: int) -> None:
        for utility, weight in zip(self._utilities, self._weights):
            utility.mul_(self._memory).addcmul_(weight, weight.grad, value=-(1 - self._memory))
        largest = max(float(utility.max()) for utility in self._utilities)  # the correction for the start cancels out
        for utility, weight in zip(self._utilities, self._weights):
            useful = torch.sigmoid(utility / largest) if largest > 0 else torch.full_like(utility, 0.5)
            move = (weight.grad + self._noise * torch.randn_like(weight)) * (1 - useful)
            weight.mul_(1 - self._lr * self._decay).sub_(move, alpha=2 * self._lr)
