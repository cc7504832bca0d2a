"""Exchanges the batch norms of any network for another layer, so that it takes batches of any size.

Affine weights are kept, and the running statistics where the new layer keeps statistics of the same thing.
"""

import inspect
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from stream_trainer.errors import ConfigError
from stream_trainer.norms.base import Norm, StatefulNorm
from stream_trainer.norms.batch import BatchNorm
from stream_trainer.norms.registry import NORMS, build_norm
from stream_trainer.norms.weight_standardised import WEIGHTED, GroupNormWS, standardise_weights

__all__ = ["convert_norms"]

RECORDS_PER_BATCH = 32  # torch counts batches, not records: what one of them is taken to have held
Network = TypeVar("Network", bound=nn.Module)


def convert_norms(module: Network, name: str, **options: Any) -> nn.Module:
    """Turn every BatchNorm1d/2d/3d, SyncBatchNorm and `batch` layer in `module` into the norm `name`, in place.

    Kept: weight and bias, eps, train or eval mode, device, requires_grad, and running statistics for norms that
    remember moments of their input (batch, batch_renorm, sync, online, adaptive_batch_renorm with per_record="none").
    The dims come from the class, those of a SyncBatchNorm from the last convolution before it. "group_ws" also
    standardises the weights of the last Linear or Conv before, where its width is the norm's. "Before" is the order of
    registration.

    Returns: `module`, or the new layer if `module` itself is a batch norm.
    Raises:  ConfigError: unknown name or option, or a lazy batch norm that has not seen a batch yet.

    >>> convert_norms(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), "layer")[1]
    LayerNorm(8, dims=1, eps=1e-05, groups=1)
    """
    build_norm(name, 8, **options)  # a wrong name or option is told even if there is nothing to convert
    converted: dict[nn.Module, Norm] = {}
    before: nn.Module | None = None
    for child in list(module.modules()):
        if isinstance(child, WEIGHTED):
            before = child
        elif isinstance(child, _BatchNorm | BatchNorm):
            converted[child] = _converted(child, before, name, options)
    for parent in list(module.modules()):
        for child_name, submodule in parent._modules.items():  # not named_children: it hides a second name of a module
            if submodule in converted:
                setattr(parent, child_name, converted[submodule])
    return converted.get(module, module)


def _converted(old: _BatchNorm | BatchNorm, before: nn.Module | None, name: str, options: dict[str, Any]) -> Norm:
    if isinstance(old, _LazyNormBase):
        raise ConfigError(
            f"{type(old).__name__} does not know its width yet. Run one batch through the network, then convert."
        )
    known = inspect.signature(NORMS[name]).parameters
    inherited: dict[str, Any] = {"eps": old.eps, "affine": old.weight is not None}
    inherited = {option: value for option, value in inherited.items() if option in known}
    new = build_norm(name, old.num_features, dims=_dims(old, before), **{**inherited, **options})
    for parameter, kept in ((new.weight, old.weight), (new.bias, old.bias)):
        if parameter is not None and kept is not None:
            with torch.no_grad():
                parameter.copy_(kept)
            parameter.requires_grad_(kept.requires_grad)
    if isinstance(new, StatefulNorm) and new.moments_of_input:
        _keep_moments(old, new)
    if isinstance(new, GroupNormWS) and isinstance(before, WEIGHTED) and before.weight.shape[0] == old.num_features:
        standardise_weights(before)
    anchor = next((tensor for tensor in (old.weight, old.running_mean) if tensor is not None), None)
    if anchor is not None:
        new.to(anchor.device)
    return new.train(old.training)


@torch.no_grad()
def _keep_moments(old: _BatchNorm | BatchNorm, new: StatefulNorm) -> None:
    mean, var, batches = old.running_mean, old.running_var, old.num_batches_tracked
    if mean is not None and var is not None and batches is not None and int(batches) > 0:
        new.set_moments(mean, var, RECORDS_PER_BATCH * int(batches))


def _dims(old: _BatchNorm | BatchNorm, before: nn.Module | None) -> int:
    if isinstance(old, BatchNorm):
        return old.dims
    for kind, dims in ((nn.BatchNorm1d, 1), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3)):
        if isinstance(old, kind):
            return dims
    for conv, dims in ((nn.Conv2d, 2), (nn.Conv3d, 3)):
        if isinstance(before, conv):
            return dims
    return 1
