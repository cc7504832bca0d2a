"""Watches a network for the signs that it stops learning, now and then, while it learns.

At the first record and then every 50,000 a pool opens: the activations of the next 1,024 records, or more, are kept,
and the step that completes the pool is looked at from both sides. So units are judged by a thousand records whatever
the size of the batches, and most steps cost a comparison or two.
Layers are named as in the network: weights by the module that has them, units by their activation module, so no layer
has all the numbers. Not seen: functional activations of a user's module, and embeddings, whose rows learn alone.
Nothing here enters what is learned. Of all this only the lengths of the initial weights, a number per layer, are in a
snapshot; after a restart a pool opens at once.
Shape suffixes: N = records, U = units.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stream_trainer.optimizers.plasticity_signals import (
    dead_share,
    dormant_share,
    effective_rank,
    stable_rank,
    update_ratio,
)
from stream_trainer.types import LayerPlasticity

__all__ = ["PlasticityWatch", "weight_lengths"]

EVERY_RECORDS = 50_000  # a look takes a fifth of a step of 1,024 records: rarer, or it costs more than 1 %
POOL_RECORDS = 1_024  # of fewer a rarely used unit looks dead
RANK_EVERY_RECORDS = 100_000  # singular values of all activations cost ten times the rest
RANK_RECORDS, RANK_UNITS = 256, 128  # at most, the first of each: units of a layer are alike, and the cost is cubic
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU)  # those that rest at 0


class PlasticityWatch:
    """The watch over one network, which may be given other weights, but stays the same object.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> watch = PlasticityWatch(net)
    >>> with watch.listening(records=0):
    ...     _ = net(torch.randn(2_000, 3))
    >>> with watch.around_step(records=0, batch_records=2_000):
    ...     pass
    >>> watch.layers["0"].weight_ratio, watch.layers["0"].update_ratio, sorted(watch.layers)
    (1.0, 0.0, ['0', '1', '2'])
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers: Mapping[str, LayerPlasticity] = {}  # as last measured
        self.initial_lengths = weight_lengths(network)
        self._weights = _weights(network)
        self._units = {name: child for name, child in network.named_modules() if isinstance(child, ACTIVATIONS)}
        self._due = self._rank_due = 0  # records
        self._pool: _Pool | None = None

    def restart(self, initial_lengths: Mapping[str, float]) -> None:
        """The network has other weights now, which began with these lengths."""
        self.initial_lengths, self.layers = dict(initial_lengths), {}
        self._due = self._rank_due = 0
        self.drop_pool()

    def drop_pool(self) -> None:
        """What was heard does not count: the batch was not learned."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @contextmanager
    def listening(self, records: int) -> Iterator[None]:
        """Around the forward pass of a batch; `records` learned before it. Hears something only when a pool is due."""
        if records < self._due:
            yield
            return
        if self._pool is None:
            self._pool = _Pool(self._units)
        self._pool.listens = True
        try:
            yield
        finally:
            self._pool.listens = False

    @contextmanager
    def around_step(self, records: int, batch_records: int) -> Iterator[None]:
        """Around the step on that batch; measures if its records complete the pool."""
        if self._pool is None or not self._pool.completed_by(batch_records):
            yield
            return
        before = {name: weight.detach().clone() for name, weight in self._weights.items()}
        yield
        records += batch_records
        with torch.no_grad():
            self.layers = self._of_weights(before) | self._of_units(self._pool, rank=records >= self._rank_due)
        self.drop_pool()
        self._due = _next(EVERY_RECORDS, records)
        if records >= self._rank_due:
            self._rank_due = _next(RANK_EVERY_RECORDS, records)

    def _of_weights(self, before: Mapping[str, Tensor]) -> dict[str, LayerPlasticity]:
        found = {}
        for name, weight in self._weights.items():
            initial = self.initial_lengths.get(name, 0.0)
            found[name] = LayerPlasticity(
                weight_ratio=weight.norm().item() / initial if initial else None,
                update_ratio=update_ratio(before[name], weight),
                stable_rank=stable_rank(weight),
            )
        return found

    def _of_units(self, pool: "_Pool", *, rank: bool) -> dict[str, LayerPlasticity]:
        found = {}
        for name, heard_NU in pool.activations().items():
            activity_U = heard_NU.abs().mean(dim=0)
            old = self.layers.get(name, LayerPlasticity()).effective_rank
            found[name] = LayerPlasticity(
                dead=dead_share(activity_U),
                dormant=dormant_share(activity_U),
                effective_rank=effective_rank(heard_NU[:RANK_RECORDS, :RANK_UNITS]) if rank else old,
            )
        return found


class _Pool:
    """The activations of some batches in a row, (N, U) of each activation module; of positions their mean."""

    def __init__(self, units: Mapping[str, nn.Module]) -> None:
        self.listens = False
        self._records = 0
        self._heard: dict[str, list[Tensor]] = {name: [] for name in units}
        self._batch: set[str] = set()  # heard in this batch: of a module that is called twice, the first call counts
        self._hooks = [child.register_forward_hook(self._ear(name)) for name, child in units.items()]

    def completed_by(self, batch_records: int) -> bool:
        """Counts a batch that was heard."""
        self._records += batch_records
        self._batch.clear()
        return self._records >= POOL_RECORDS

    def _ear(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hear(_: nn.Module, __: tuple[Tensor, ...], h: Tensor) -> None:
            if self.listens and name not in self._batch:
                self._batch.add(name)
                self._heard[name].append(h.detach() if h.dim() == 2 else h.detach().abs().flatten(2).mean(dim=2))

        return hear

    def activations(self) -> dict[str, Tensor]:
        """Of the modules that were called: a branch that no record takes says nothing."""
        return {name: torch.cat(parts) for name, parts in self._heard.items() if parts}

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def weight_lengths(network: nn.Module) -> dict[str, float]:
    """Layer -> Euclidean length of its weights."""
    return {name: weight.norm().item() for name, weight in _weights(network).items()}


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """The matrices and kernels that learn, by the module that has them; no embeddings, gains and biases."""
    tables = {id(child.weight) for child in network.modules() if isinstance(child, nn.Embedding | nn.EmbeddingBag)}
    return {
        name.removesuffix(".weight"): weight
        for name, weight in network.named_parameters()
        if weight.dim() >= 2 and weight.requires_grad and id(weight) not in tables
    }


def _next(every: int, records: int) -> int:
    return (records // every + 1) * every
