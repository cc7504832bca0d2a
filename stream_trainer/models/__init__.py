"""Models: networks and trees behind one contract (`contracts.Model`), built by kind.

Floor 2: uses the norms and optimizers of floor 1; knows no stream, no file and no clock.
"""

from collections.abc import Callable
from typing import Any

from stream_trainer.contracts import Model
from stream_trainer.errors import ConfigError
from stream_trainer.models.digest import state_sha256
from stream_trainer.models.networks import NETWORKS, build_network
from stream_trainer.models.river_model import RiverModel
from stream_trainer.models.river_options import RiverOptions
from stream_trainer.models.torch_model import TorchModel
from stream_trainer.models.torch_options import TorchOptions
from stream_trainer.schema import Schema

__all__ = [
    "MODELS",
    "NETWORKS",
    "RiverModel",
    "RiverOptions",
    "TorchModel",
    "TorchOptions",
    "build_model",
    "build_network",
    "state_sha256",
]

MODELS: dict[str, tuple[Callable[..., Model], type]] = {
    "torch": (TorchModel, TorchOptions),
    "river": (RiverModel, RiverOptions),
}
"""Kind in the configuration -> the model, called (schema, options), and the type of its options."""


def build_model(schema: Schema, kind: str, options: Any) -> Model:
    """Build a model by its kind; `options` is the kind's options object.

    Raises: ConfigError: no such kind, options of another kind, or whatever the model refuses.
    """
    if kind not in MODELS:
        raise ConfigError(f"model kind is {kind!r}; known kinds: {', '.join(sorted(MODELS))}.")
    model, expected = MODELS[kind]
    if not isinstance(options, expected):
        raise ConfigError(f"model kind {kind!r} expects {expected.__name__}, got {type(options).__name__}.")
    return model(schema, options)
