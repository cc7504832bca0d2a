"""What survives: the memory of each part, and with which positions it belongs together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stream_trainer.types.outcomes import Counts
from stream_trainer.types.records import Positions

if TYPE_CHECKING:
    import torch

__all__ = ["Snapshot", "State"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The whole memory of one part, in forms that are safe to load.

    Arrays are copies: learning goes on while they are written. `pickles` is for objects that have no safe form
    (River); it is refused unless the operator trusts the directory.
    """

    arrays: Mapping[str, "np.ndarray | torch.Tensor"] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)  # JSON: str keys, numbers, strings, lists, None
    pickles: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def join(cls, parts: Mapping[str, "State"]) -> "State":
        """One state made of several, for a part that consists of parts; `part` takes them out again.

        >>> State.join({"a": State(values={"n": 1})}).part("a").values
        {'n': 1}
        """
        return cls(
            arrays={f"{name}/{key}": array for name, part in parts.items() for key, array in part.arrays.items()},
            values={name: dict(part.values) for name, part in parts.items()},
            pickles={f"{name}/{key}": blob for name, part in parts.items() for key, blob in part.pickles.items()},
        )

    def part(self, name: str) -> "State":
        """The state that was joined under `name`. Raises: KeyError if there is none."""
        own = f"{name}/"
        return State(
            arrays={key.removeprefix(own): array for key, array in self.arrays.items() if key.startswith(own)},
            values=self.values[name],
            pickles={key.removeprefix(own): blob for key, blob in self.pickles.items() if key.startswith(own)},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Positions and everything learned up to exactly there, one unit: neither is ever saved without the other."""

    positions: Positions
    counts: Counts
    parts: Mapping[str, State]  # "models/mlp", "scores", "drift", ...: who captured it restores it
    topic_ids: Mapping[str, str] = field(default_factory=dict)  # topic -> hexadecimal, of sources that know it
    unfinished: Sequence[Callable[[], None]] = ()  # copies of large arrays that are still to be made

    def finish(self) -> None:
        """Make every array whole, from any thread, before the first is read; costs nothing the second time."""
        for finish in self.unfinished:
            finish()
