"""What one does to the norms of a built network: stop their memory, measure it anew, ask how far it has moved."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stream_trainer.errors import ConfigError
from stream_trainer.norms.base import NormDrift, StatefulNorm
from stream_trainer.norms.moments import RunningMoments
from stream_trainer.norms.precision import wide

__all__ = ["drift_numbers", "freeze", "recompute_moments", "stateful_norms"]

Network = TypeVar("Network", bound=nn.Module)


def freeze(module: Network, frozen: bool = True) -> Network:
    """Stop (or with False, restart) the memory of all our norms in `module`: in train mode they normalise as ever, and
    nothing of their state moves, in backward neither. Parameters still learn. Returns `module`.

    >>> from stream_trainer.norms import build_norm
    >>> layer = freeze(build_norm("batch_renorm", 2))
    >>> layer(torch.ones(4, 2)).shape, int(layer.moments.n_records)
    (torch.Size([4, 2]), 0)
    """
    for child in module.modules():
        if isinstance(child, StatefulNorm):
            child.frozen = frozen
    return module


def stateful_norms(module: nn.Module) -> dict[str, StatefulNorm]:
    """The layers in `module` that remember moments, by name. To walk all modules takes longer than to ask a layer."""
    return {name: child for name, child in module.named_modules() if isinstance(child, StatefulNorm)}


def drift_numbers(norms: nn.Module | Mapping[str, StatefulNorm]) -> dict[str, NormDrift]:
    """Name of each norm that can tell -> how far its activations have moved. Not before the first batch.

    As many entries as layers, three numbers each; costs a few sums over channels a layer, when asked.

    Args: norms: a network, or its `stateful_norms` for whoever asks often.

    >>> from stream_trainer.norms import build_norm
    >>> net = nn.Sequential(nn.Linear(8, 8), build_norm("adaptive_batch_renorm", 8))
    >>> drift_numbers(net), net(torch.randn(4, 8)).shape, list(drift_numbers(net))
    ({}, torch.Size([4, 8]), ['1'])
    """
    layers = stateful_norms(norms) if isinstance(norms, nn.Module) else norms
    return {name: drift for name, layer in layers.items() if (drift := layer.drift()) is not None}


@torch.no_grad()
def recompute_moments(model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> None:
    """Set the moments of every norm to those of all records in `batches`, each counting once, with frozen weights.

    Exact for any cut: the model runs in eval mode, and the layers are measured one after another in the order in which
    they run, so that each sees what the corrected ones below it send. Costs one pass over `batches` per norm layer.
    Torch's own batch norms are set too. Modes of all modules are left as they were.

    Args:    batches: what the model is called with, a tensor or a tuple of arguments; a list, or another iterable that
             can be gone through many times.
    Raises:  ConfigError: `batches` can be gone through only once, or holds no record.
    """
    if iter(batches) is batches:
        raise ConfigError("recompute_moments needs to go through the batches once per layer; give it a list of them.")
    with _eval_mode(model):
        for norm in _in_order_of_use(model, batches):
            moments = _measured(model, batches, norm)
            n_records = int(moments.n_records)
            if n_records == 0:
                raise ConfigError("recompute_moments was given no record; give it at least one batch.")
            if isinstance(norm, StatefulNorm):
                norm.set_moments(moments.mean, moments.var, n_records)
            elif norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.copy_(moments.mean)
                norm.running_var.copy_(moments.var)


def _call(model: nn.Module, batch: Tensor | tuple[Tensor, ...]) -> None:
    model(*batch) if isinstance(batch, tuple) else model(batch)


def _in_order_of_use(
    model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]]
) -> list[StatefulNorm | _BatchNorm]:
    used: dict[StatefulNorm | _BatchNorm, None] = {}
    norms = [child for child in model.modules() if isinstance(child, StatefulNorm | _BatchNorm)]
    handles = [norm.register_forward_pre_hook(lambda norm, _: used.setdefault(norm)) for norm in norms]
    try:
        for batch in batches:
            _call(model, batch)
            break
    finally:
        for handle in handles:
            handle.remove()
    return list(used)


def _measured(
    model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]], norm: StatefulNorm | _BatchNorm
) -> RunningMoments:
    """The moments of what reaches `norm`, all records alike."""
    device = next((buffer.device for buffer in norm.buffers()), None)
    moments = RunningMoments(norm.num_features, half_life_records=None, dtype=torch.float64).to(device)

    def measure(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = wide(inputs[0])
        if len(x):
            moments.update(norm.moments_input(x) if isinstance(norm, StatefulNorm) else x)

    handle = norm.register_forward_pre_hook(measure)
    try:
        for batch in batches:
            _call(model, batch)
    finally:
        handle.remove()
    return moments


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training
