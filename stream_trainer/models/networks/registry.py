"""Which networks exist, how one is built by name, and the one layer that no network may have in training."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from stream_trainer.errors import ConfigError
from stream_trainer.models.networks.lenet import LeNet
from stream_trainer.models.networks.mlp import MLP
from stream_trainer.models.networks.recurrent import GRU, LSTM
from stream_trainer.models.networks.resnet import ResNetSmall
from stream_trainer.norms.batch import BatchNorm
from stream_trainer.schema import InputWidths

__all__ = ["NETWORKS", "build_network", "refuse_batch_norm"]

NETWORKS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"mlp": MLP, "lenet": LeNet, "resnet_small": ResNetSmall, "gru": GRU, "lstm": LSTM}
)
"""Name -> what builds it: called with (widths, outputs, **options)."""


def build_network(name: str, widths: InputWidths, outputs: int, **options: Any) -> nn.Module:
    """Build a network by its name in the configuration; weights come from torch's current random state.

    Raises: ConfigError: no network of this name, no option of this name, a value that cannot be, or inputs that this
            network cannot read.

    >>> build_network("lenet", InputWidths(numbers=0, arrays=((28, 28),)), 10, norm="layer").convolutions[0]
    Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), bias=False)
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
