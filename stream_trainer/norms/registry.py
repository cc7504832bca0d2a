"""Which norm layers exist, and how one is built by name."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from stream_trainer.errors import ConfigError
from stream_trainer.norms.adaptive_batch_renorm import AdaptiveBatchRenorm
from stream_trainer.norms.base import Norm
from stream_trainer.norms.batch import BatchNorm
from stream_trainer.norms.batch_renorm import BatchRenorm
from stream_trainer.norms.continual import ContinualNorm
from stream_trainer.norms.conv_only import EvoNormS0, FilterResponseNorm
from stream_trainer.norms.online import OnlineNorm
from stream_trainer.norms.per_record import GroupNorm, InstanceNorm, LayerNorm, NoNorm, RMSNorm
from stream_trainer.norms.sync import SyncBatchRenorm
from stream_trainer.norms.weight_standardised import GroupNormWS

__all__ = ["NORMS", "build_norm"]

NORMS: Mapping[str, Callable[..., Norm]] = MappingProxyType(
    {
        "none": NoNorm,
        "batch": BatchNorm,
        "layer": LayerNorm,
        "rms": RMSNorm,
        "instance": InstanceNorm,
        "group": GroupNorm,
        "group_ws": GroupNormWS,
        "frn": FilterResponseNorm,
        "evonorm_s0": EvoNormS0,
        "online": OnlineNorm,
        "batch_renorm": BatchRenorm,
        "sync": SyncBatchRenorm,
        "continual": ContinualNorm,
        "adaptive_batch_renorm": AdaptiveBatchRenorm,
    }
)
"""Name in the configuration -> class; each is called with (num_features, dims=1|2|3, **options)."""


def build_norm(name: str, num_features: int, *, dims: int = 1, **options: Any) -> Norm:
    """A norm layer for `num_features` channels: dims 1 for (N, C) and (N, C, L), 2 for images, 3 for volumes.

    Raises: ConfigError: unknown name or option (the message lists the known ones), or a value that cannot be.

    >>> build_norm("group", 8, dims=2)
    GroupNorm(8, dims=2, eps=1e-05, groups=2)
    """
    if name not in NORMS:
        raise ConfigError(f"norm is {name!r}; known norms: {', '.join(sorted(NORMS))}.")
    known = [option for option in inspect.signature(NORMS[name]).parameters if option not in ("num_features", "dims")]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"norm {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"known options: {', '.join(sorted(known)) or 'none'}."
        )
    return NORMS[name](num_features, dims=dims, **options)
