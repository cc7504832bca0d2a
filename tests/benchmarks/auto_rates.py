"""Four published ways to find a learning rate while learning, written from their formulas, for comparison only.

Legend: W = weights, W0 = where they began, g = gradient of the mean loss, Δ = the last step, · = over all weights.
    hypergradient  Adam with lr ← lr exp(κ cos(g, -Δ)): longer steps while the last one still points downhill (Baydin
                   et al. 2018, arXiv:1703.04782, in the multiplicative form)
    DoG            plain gradient, lr = max |W - W0| / sqrt(Σ |g|²): the sum never forgets (Ivgi et al. 2023,
                   arXiv:2302.12022)
    Prodigy        Adam on d g with steps of d, an estimate of |W* - W0| from below that only grows: d = max(d, r /
                   |s|₁), r and s running sums of d² g·(W0 - W) and d² g (Mishchenko and Defazio 2023, arXiv:2306.06101)
    TRAC           W = W0 + S (B - W0), B the path of Adam, S the sum over discounts β of
                   ε erfi(σ / sqrt(2 v)) / erfi(1/√2), v ← β² v + h², σ ← β σ - h, h = g·(B - W0) (Muppidi et al. 2024,
                   arXiv:2405.16642)
Not for use in the product: all of them count steps.
"""

import math
from collections.abc import Callable

import torch
from scipy.special import erfi
from torch import Tensor, nn

__all__ = ["AUTO_RATES"]

Step = Callable[[int], object]
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def _flat(net: nn.Module) -> Callable[[Callable[[nn.Parameter], Tensor]], Tensor]:
    parameters = list(net.parameters())
    return lambda take: torch.cat([take(p).reshape(-1) for p in parameters])


class _Adam:
    """Its direction on a flat gradient."""

    def __init__(self, like: Tensor) -> None:
        self.mean, self.square, self.steps = torch.zeros_like(like), torch.zeros_like(like), 0

    def direction(self, g: Tensor) -> Tensor:
        self.steps += 1
        self.mean.lerp_(g, 1 - BETA1)
        self.square.lerp_(g * g, 1 - BETA2)
        unbiased = self.square / (1 - BETA2**self.steps)
        return self.mean / (1 - BETA1**self.steps) / (unbiased.sqrt() + EPS)


class _Flat:
    """A method on all weights as one vector; `_move` is told where they are and what the gradient is."""

    def __init__(self, net: nn.Module) -> None:
        self._net, self._take = net, _flat(net)
        self.start = self._take(lambda p: p.detach().clone())

    @torch.no_grad()
    def step(self, records: int) -> None:
        weights = self._take(lambda p: p.detach())
        gradient = self._take(lambda p: torch.zeros_like(p) if p.grad is None else p.grad)
        nn.utils.vector_to_parameters(self._move(weights, gradient), self._net.parameters())

    def _move(self, w: Tensor, g: Tensor) -> Tensor:
        raise NotImplementedError


class Hypergradient(_Flat):
    def __init__(self, net: nn.Module, *, lr: float = 1e-4, kappa: float = 0.02) -> None:
        super().__init__(net)
        self._lr, self._kappa, self._adam = lr, kappa, _Adam(self.start)
        self._last = torch.zeros_like(self.start)

    def _move(self, w: Tensor, g: Tensor) -> Tensor:
        length = float(g.norm() * self._last.norm())
        if length > 0:
            self._lr *= math.exp(-self._kappa * float(g @ self._last) / length)
        self._last = -self._lr * self._adam.direction(g)
        return w + self._last


class DoG(_Flat):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self._furthest, self._squares = 1e-6 * (1 + float(self.start.norm())), 0.0

    def _move(self, w: Tensor, g: Tensor) -> Tensor:
        self._furthest = max(self._furthest, float((w - self.start).norm()))
        self._squares += float(g @ g)
        return w - self._furthest / math.sqrt(self._squares + EPS) * g


class Prodigy(_Flat):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self._d, self._r = 1e-6, 0.0
        self._s, self._mean, self._square = (torch.zeros_like(self.start) for _ in range(3))

    def _move(self, w: Tensor, g: Tensor) -> Tensor:
        d, root = self._d, math.sqrt(BETA2)
        self._mean.mul_(BETA1).add_(g, alpha=(1 - BETA1) * d)
        self._square.mul_(BETA2).add_(g * g, alpha=(1 - BETA2) * d * d)
        self._r = root * self._r + (1 - root) * d * d * float(g @ (self.start - w))
        self._s.mul_(root).add_(g, alpha=(1 - root) * d * d)
        length = float(self._s.abs().sum())
        if length > 0:
            self._d = max(d, self._r / length)
        return w - d * self._mean / (self._square.sqrt() + d * EPS)


class Trac(_Flat):
    BETAS = tuple(1 - 0.1**k for k in range(1, 7))

    def __init__(self, net: nn.Module, *, lr: float = 1e-2, eps: float = 1e-8) -> None:
        super().__init__(net)
        self._lr, self._eps, self._adam = lr, eps, _Adam(self.start)
        self._path = torch.zeros_like(self.start)  # B - W0
        self._v, self._sigma = ([0.0] * len(self.BETAS) for _ in range(2))

    def _move(self, w: Tensor, g: Tensor) -> Tensor:
        h = float(g @ self._path)
        scale = 0.0
        for i, beta in enumerate(self.BETAS):
            self._v[i] = beta**2 * self._v[i] + h * h
            self._sigma[i] = beta * self._sigma[i] - h
            spread = math.sqrt(2 * self._v[i])
            scale += self._eps / erfi(1 / math.sqrt(2)) * erfi(self._sigma[i] / spread) if spread > 0 else 0.0
        self._path = self._path - self._lr * self._adam.direction(g)
        return self.start + max(0.0, scale) * self._path


AUTO_RATES: dict[str, Callable[[nn.Module], Step]] = {
    "hypergradient": lambda net: Hypergradient(net).step,
    "dog": lambda net: DoG(net).step,
    "prodigy": lambda net: Prodigy(net).step,
    "trac": lambda net: Trac(net).step,
}
